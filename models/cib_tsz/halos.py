"""Halos of the light cone: how many of each mass, how biased, how large, slice by slice in redshift.

Everything cosmological comes from colossus (Diemer 2018, arXiv:1712.04512) and is tabulated once: the mass function of
Tinker et al. (2008, arXiv:0803.2706), the bias of Tinker et al. (2010, arXiv:1001.3162), the linear power projected
through each slice (Limber), and M_500c of every M_200c. Masses are in solar masses, lengths in Mpc, without h.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

COSMOLOGY = "planck18"
REDSHIFTS = (0.1, 4.0)
NUM_SLICES = 16
LOG_MASSES = (11.2, 15.8)
MASS_STEP = 0.05
ARCMIN = np.pi / 10800.0


class LightCone(NamedTuple):
    """Tables of S slices and B masses.

    Attributes:
        h: Hubble constant over 100 km/s/Mpc.
        z: of the middle of each slice, (S,).
        chi: comoving distance of the middle [Mpc], (S,).
        depth: comoving depth of the slices [Mpc].
        efunc: H(z) / H0, (S,).
        log_mass: log10 M_200c of the middle of each mass bin, (B,).
        density: halos per steradian in each slice and mass bin, (S, B).
        bias: linear bias, (S, B).
        m500: M_500c, (S, B).
        r200: R_200c, proper [Mpc], (S, B).
        r500: R_500c, proper [Mpc], (S, B).
        multipoles: at which the matter power is tabulated, (L,).
        matter_power: angular power of the projected linear density contrast [sr], (S, L).
    """

    h: float
    z: np.ndarray
    chi: np.ndarray
    depth: float
    efunc: np.ndarray
    log_mass: np.ndarray
    density: np.ndarray
    bias: np.ndarray
    m500: np.ndarray
    r200: np.ndarray
    r500: np.ndarray
    multipoles: np.ndarray
    matter_power: np.ndarray

    def angle(self, radius: np.ndarray, slices: np.ndarray | int) -> np.ndarray:
        """Angle [rad] under which a proper radius [Mpc] appears from a slice."""
        return radius * (1.0 + self.z[slices]) / self.chi[slices]


@lru_cache(maxsize=1)
def light_cone() -> LightCone:
    """The tables, in seconds.

    Raises:
        ModuleNotFoundError: colossus is not installed.
    """
    cosmos = _cosmology()
    from colossus.halo import concentration, mass_defs, mass_so
    from colossus.lss import bias, mass_function

    h = float(cosmos.h)
    ends = cosmos.comovingDistance(0.0, np.array(REDSHIFTS)) / h
    edges = np.linspace(ends[0], ends[1], NUM_SLICES + 1)
    chi, depth = 0.5 * (edges[1:] + edges[:-1]), float(edges[1] - edges[0])
    fine = np.linspace(0.0, 5.0, 2000)
    z = np.interp(chi, np.append(0.0, cosmos.comovingDistance(0.0, fine[1:]) / h), fine)
    log_mass = np.arange(LOG_MASSES[0], LOG_MASSES[1], MASS_STEP) + 0.5 * MASS_STEP
    mass = 10.0**log_mass * h
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("density", "bias", "m500", "r200", "r500", "power")}
    multipoles = np.geomspace(10.0, 4e4, 200)
    for slice_z, distance in zip(z, chi, strict=True):
        number = mass_function.massFunction(mass, slice_z, mdef="200c", model="tinker08", q_out="dndlnM")
        per_bin = number * h**3 * MASS_STEP * np.log(10.0)
        columns["density"].append(per_bin * distance**2 * depth)
        columns["bias"].append(bias.haloBias(mass, slice_z, mdef="200c", model="tinker10"))
        c = concentration.concentration(mass, "200c", slice_z, model="diemer19")
        m500, r500 = mass_defs.changeMassDefinition(mass, c, slice_z, "200c", "500c")[:2]
        columns["m500"].append(np.asarray(m500) / h)
        columns["r500"].append(np.asarray(r500) / 1e3 / h)
        columns["r200"].append(np.asarray(mass_so.M_to_R(mass, slice_z, "200c")) / 1e3 / h)
        k = (multipoles + 0.5) / distance / h
        columns["power"].append(cosmos.matterPowerSpectrum(k, slice_z) / h**3 / distance**2 / depth)
    tables = {name: np.stack(rows) for name, rows in columns.items()}
    power = tables.pop("power")
    efunc = np.asarray(cosmos.Ez(z))
    return LightCone(h, z, chi, depth, efunc, log_mass, **tables, multipoles=multipoles, matter_power=power)


def angle_500(m500: float, redshift: float) -> float:
    """Angle theta_500c [rad] of a halo of M_500c [solar masses].

    Raises:
        ModuleNotFoundError: colossus is not installed.
    """
    cosmos = _cosmology()
    from colossus.halo import mass_so

    radius = float(mass_so.M_to_R(m500 * cosmos.h, redshift, "500c")) / 1e3
    return radius * (1.0 + redshift) / float(cosmos.comovingDistance(0.0, redshift))


@lru_cache(maxsize=1)
def _cosmology() -> Any:
    """Made once: a new one has none of the tables of distances that the last one computed."""
    try:
        from colossus.cosmology import cosmology
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("CIB and tSZ need colossus: pip install 'bayesdiff[simulations]'") from error
    return cosmology.setCosmology(COSMOLOGY, persistence="")
