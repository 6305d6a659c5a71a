"""Scalar parameters of a posterior: their draws, names, units and convergence diagnostics.

Everything else in the report works on these: a vector-valued site ``theta`` of three elements becomes the scalars
``theta[0]``, ``theta[1]``, ``theta[2]``. R-hat and effective sample sizes are ArviZ's (rank-normalised split R-hat,
bulk and tail ESS; Vehtari et al. 2021, arXiv:1903.08008), wrapped so that constants, single chains and very short or
non-finite runs give NaN or infinity without warnings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from arviz_stats.sampling_diagnostics import ess, rhat
from numpy.typing import NDArray
from scipy.stats import rankdata

_LABELS = {
    "H0": (r"$H_0$", "km/s/Mpc"),
    "omega_b": (r"$\omega_b$", ""),
    "sigma": (r"$\sigma$", "dust s.d."),
    "t_star": (r"$t_*$", ""),
    "Omega_m": (r"$\Omega_m$", ""),
    "sigma_8": (r"$\sigma_8$", ""),
    "noise_level": ("noise level", "s.d."),
    "dust": ("dust", "dust s.d."),
    "cmb": ("CMB", "dust s.d."),
}
_TAIL = (0.05, 0.95)
_MIN_DRAWS = 4


class Diagnostics(NamedTuple):
    """Convergence of one scalar: rank-normalised split R-hat, bulk ESS, tail ESS (of the 5 and 95 % quantiles)."""

    rhat: float
    ess_bulk: float
    ess_tail: float


def symbol(name: str) -> str:
    """Symbol of a parameter as mathtext, or its plain name with mathtext characters escaped."""
    return _LABELS[name][0] if name in _LABELS else name.replace("$", r"\$")


def unit(name: str) -> str:
    """Unit of a parameter, empty where it has none or is not known."""
    return _LABELS.get(name, ("", ""))[1]


def axis_label(name: str) -> str:
    """Symbol and unit for an axis, such as ``$H_0$ [km/s/Mpc]``."""
    return f"{symbol(name)} [{unit(name)}]" if unit(name) else symbol(name)


def has_group(data: xr.DataTree, group: str) -> bool:
    """Whether a result holds the group and at least one variable in it."""
    return group in data.children and bool(data[group].data_vars)


def scalar_draws(data: xr.DataTree, max_size: int = 64) -> dict[str, NDArray[np.floating]]:
    """Draws of every scalar parameter, element by element.

    Args:
        data: A result with a ``posterior`` group whose variables have dims (chain, draw, ...).
        max_size: Variables with more elements than this (fields, base noise) are reduced to this many evenly spaced
            ones.

    Returns:
        Name to array (chain, draw), in the order of the posterior.

    Raises:
        ValueError: If there is no posterior group, or a variable has no chain and draw.
    """
    if not has_group(data, "posterior"):
        raise ValueError("the result has no posterior: expected a DataTree with a group 'posterior'")
    draws: dict[str, NDArray[np.floating]] = {}
    for key, variable in data["posterior"].data_vars.items():
        name = str(key)
        if not {"chain", "draw"} <= set(variable.dims):
            raise ValueError(f"posterior variable {name!r} needs dims chain and draw, got {variable.dims}")
        values = np.asarray(variable.transpose("chain", "draw", ...).values, dtype=float)
        if values.ndim == 2:
            draws[name] = values
            continue
        flat = values.reshape(*values.shape[:2], -1)
        for index in np.unique(np.linspace(0, flat.shape[-1] - 1, min(max_size, flat.shape[-1])).astype(int)):
            where = ", ".join(str(i) for i in np.unravel_index(index, values.shape[2:]))
            draws[f"{name}[{where}]"] = flat[..., index]
    return draws


def chosen_draws(data: xr.DataTree, parameters: Sequence[str] | None) -> dict[str, NDArray[np.floating]]:
    """Draws (chain, draw) of the named scalars; by default of at most eight that vary and do not repeat another.

    Raises:
        ValueError: If a name is not in the posterior.
    """
    draws = scalar_draws(data)
    if parameters is None:
        kept: list[str] = []
        for name, values in draws.items():
            if not is_constant(values) and not any(_same_order(values, draws[other]) for other in kept):
                kept.append(name)
        return {name: draws[name] for name in (kept or list(draws))[:8]}
    unknown = [name for name in parameters if name not in draws]
    if unknown:
        raise ValueError(f"the posterior has no {', '.join(unknown)}; it has {', '.join(draws)}")
    return {name: draws[name] for name in parameters}


def _same_order(a: NDArray[np.floating], b: NDArray[np.floating]) -> bool:
    """Whether one is a monotone function of the other, as t* is of sigma, and so shows nothing new."""
    if a.size < 10 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    return bool(abs(np.corrcoef(rankdata(a), rankdata(b))[0, 1]) > 1 - 1e-6)


def scalar_truth(data: xr.DataTree, truth: Mapping[str, float] | None = None) -> dict[str, float]:
    """True values of the scalars, where known: those given, over those in the ``truth`` group."""
    known: dict[str, float] = {}
    if has_group(data, "truth"):
        for key, variable in data["truth"].data_vars.items():
            values = np.asarray(variable.values)
            if values.size == 1 and values.ndim == 0:
                known[str(key)] = float(values)
            elif values.ndim == 1 and values.size <= 64:
                known.update({f"{key}[{i}]": float(v) for i, v in enumerate(values)})
    known.update({name: float(value) for name, value in (truth or {}).items()})
    return known


def is_constant(draws: NDArray[np.floating]) -> bool:
    """Whether all draws are one value to rounding."""
    spread = np.ptp(draws) if draws.size else 0.0
    return bool(spread <= 1e-12 * max(1.0, float(np.max(np.abs(draws), initial=0.0))))


def diagnose(draws: NDArray[np.floating]) -> Diagnostics:
    """R-hat and effective sample sizes of one scalar.

    A single chain is split in two halves for R-hat. Constants, non-finite draws and runs of fewer than four draws
    give NaN; chains that each stand still at their own value give an infinite R-hat.

    Args:
        draws: Array (chain, draw).
    """
    if draws.shape[1] < _MIN_DRAWS or not np.all(np.isfinite(draws)) or is_constant(draws):
        return Diagnostics(np.nan, np.nan, np.nan)
    bulk = float(ess(draws, method="bulk"))
    tail = float(ess(draws, method="tail", prob=_TAIL))
    if all(is_constant(chain) for chain in draws):
        return Diagnostics(np.inf, bulk, tail)
    chains = draws
    if draws.shape[0] == 1:
        half = draws.shape[1] // 2
        chains = np.stack([draws[0, :half], draws[0, -half:]])
    return Diagnostics(_rhat(chains), bulk, tail)


def _rhat(chains: NDArray[np.floating]) -> float:
    return float(rhat(chains, method="rank")) if chains.shape[1] >= _MIN_DRAWS else np.nan
