"""The models that can be calibrated on the command line: what is simulated, what is inferred, and what is ranked.

Models whose field is a latent site are ranked in a functional of the field as well. Priors are the shipped ones unless
another is named; ``twin``, the Gaussian field of the same mean and power, needs no network. Whole fields by trained
priors are for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import bayesdiff as bd
from bayesdiff.diffusion.denoiser import is_gaussian


class Name(StrEnum):
    """The models that can be calibrated."""

    linear_gaussian = "linear_gaussian"
    dust_cmb = "dust_cmb"
    gaussian_fields = "gaussian_fields"
    density_fields = "density_fields"
    denoising = "denoising"
    masked_map = "masked_map"
    mass_mapping = "mass_mapping"
    cib_tsz = "cib_tsz"
    dark_matter = "dark_matter"


class Problem(NamedTuple):
    """What is calibrated.

    Attributes:
        model: NumPyro model, which takes its data as an argument.
        about: one sentence for the page.
        quantities: further quantities, see :func:`bayesdiff.calibration.sbc`.
        parameters: that a grid is laid over.
        ranked: names of the sites that are ranked; None for all parameters.
        simulator: of the data, where it is not the model.
        trajectory_length: of microcanonical chains, where a whole field is sampled; None where none is.
    """

    model: Callable[..., Any]
    about: str
    quantities: Mapping[str, Callable[..., Any]]
    parameters: tuple[str, ...] = ("H0", "omega_b", "sigma")
    ranked: tuple[str, ...] | None = None
    simulator: Callable[[jax.Array], dict[str, jax.Array]] | None = None
    trajectory_length: float | None = None

    @property
    def has_field(self) -> bool:
        """Whether a whole field is sampled."""
        return self.trajectory_length is not None


class Asked(NamedTuple):
    """What is asked of a problem.

    Attributes:
        prior: name of a shipped prior, ``twin``, or the folder of a saved model; None for the shipped one.
        gibbs: whether Gibbs is to sample it, which takes a latent field as it is; other engines take it non-centred.
    """

    prior: str | None = None
    gibbs: bool = False


def make_problem(name: Name, asked: Asked) -> Problem:
    """The model of a name.

    Raises:
        FileNotFoundError: no such prior, or data that are missing.
        ValueError: a prior that the model is not for.
    """
    return _MAKERS[name](asked)


def _linear_gaussian(asked: Asked) -> Problem:
    from models.dust_cmb.model import make_model
    from models.linear_gaussian import make_twin

    if asked.prior is not None:
        raise ValueError(f"linear_gaussian is a twin itself and takes no other prior, got {asked.prior!r}")
    model = make_model(make_twin())
    about = "Gaussian dust of 32 x 32 pixels of 8 arcmin and a CMB of unknown cosmology, likelihood in closed form."
    return Problem(model, about, {"log_likelihood": bd.calibration.log_likelihood(model)})


def _dust_cmb(asked: Asked) -> Problem:
    from models.dust_cmb.model import make_model

    prior, words = load(asked, "dust-cmb-64")
    about = f"Dust drawn from {words}, a CMB of unknown cosmology, 64 x 64 pixels of 8 arcmin."
    return Problem(make_model(prior), about, {})


def _gaussian_fields(asked: Asked) -> Problem:
    from models.gaussian_fields.model import make_model

    return _conditional(make_model, *load(asked, "gaussian-fields-64"))


def _density_fields(asked: Asked) -> Problem:
    from models.density_fields.model import make_model

    return _conditional(make_model, *load(asked, "density-fields-64"))


def _conditional(make_model: Callable[..., Any], prior: bd.DiffusionModel, words: str) -> Problem:
    about = f"Fields of 64 x 64 pixels drawn from {words}, its parameters unknown."
    return Problem(make_model(prior, _bound(prior)), about, {}, prior.context_names)


def _denoising(asked: Asked) -> Problem:
    from models.denoising.model import make_model

    prior, words = load(asked, "dust-64")
    about = f"Dust of 64 x 64 pixels drawn from {words}, in white noise of unknown level."
    return Problem(make_model(prior, _bound(prior)), about, {}, ("noise_level",))


def _masked_map(asked: Asked) -> Problem:
    from models.masked_map.model import NUM_STEPS, default_calibration_sd, make_model, unknowns
    from models.masked_map.observation import scan_noise, survey_mask

    prior, words = load(asked, "dust-shapes-64")
    size = prior.event_shape[-1]
    mask = survey_mask(size)
    calibration_sd = default_calibration_sd(prior, asked.gibbs)
    steps = None if asked.gibbs else NUM_STEPS
    model = make_model(prior, mask, scan_noise(size), num_steps=steps, calibration_sd=calibration_sd)
    about = f"Dust drawn from {words}, under a mask and in inhomogeneous noise of unknown level."
    quantities = {"mean of hidden pixels": partial(_mean_where, "x", jnp.asarray(~mask))}
    names = unknowns(prior, calibration_sd)
    return Problem(model, about, quantities, names, names, trajectory_length=4.0)


def _mass_mapping(asked: Asked) -> Problem:
    from models.mass_mapping.data import load_cosmos
    from models.mass_mapping.model import NUM_STEPS, make_model
    from models.mass_mapping.prior import convergence_scale

    prior, words = load(asked, "kappa-64")
    steps = None if asked.gibbs else NUM_STEPS
    model = make_model(prior, load_cosmos().survey, convergence_scale(prior).convergence, steps)
    about = f"Convergence drawn from {words}, its shear under the mask and the noise map of HST-COSMOS."
    quantities = {"highest peak": partial(_extreme, "kappa", jnp.max)}
    return Problem(model, about, quantities, ("level",), ("level",), trajectory_length=1.5)


def _cib_tsz(asked: Asked) -> Problem:
    from models.cib_tsz.model import NUM_STEPS, make_model
    from models.cib_tsz.observation import NOISE, cmb_power

    prior, words = load(asked, "cib-tsz-64")
    about = f"CIB and tSZ drawn from {words}, their amplitudes unknown, at 95 and 150 GHz in CMB and noise."
    quantities = {"deepest tSZ": partial(_extreme, "tsz", jnp.min)}
    names = ("A_cib", "A_tsz")
    model = make_model(prior, NOISE, cmb_power(), None if asked.gibbs else NUM_STEPS)
    return Problem(model, about, quantities, names, names, trajectory_length=1.5)


def _dark_matter(asked: Asked) -> Problem:
    from models.dark_matter.data import load_pairs
    from models.dark_matter.held_out import HeldOut
    from models.dark_matter.model import make_model_of_stars
    from models.dark_matter.prior import SIMULATIONS, SUITE

    prior, words = load(asked, "dark-matter-64")
    truths = HeldOut.of(prior, load_pairs(SIMULATIONS, SUITE).split()[1])
    about = f"Dark matter of held-out simulations, reconstructed from their stars by {words}."
    quantities = {"mass of a quarter": _mass_of_quarter, "highest density": partial(_extreme, "x", jnp.max)}
    model = make_model_of_stars(prior, truths.maps)
    return Problem(model, about, quantities, (), (), truths.draw, trajectory_length=1.5)


_MAKERS: dict[Name, Callable[[Asked], Problem]] = {
    Name.linear_gaussian: _linear_gaussian,
    Name.dust_cmb: _dust_cmb,
    Name.gaussian_fields: _gaussian_fields,
    Name.density_fields: _density_fields,
    Name.denoising: _denoising,
    Name.masked_map: _masked_map,
    Name.mass_mapping: _mass_mapping,
    Name.cib_tsz: _cib_tsz,
    Name.dark_matter: _dark_matter,
}


def load(asked: Asked, name: str) -> tuple[bd.DiffusionModel, str]:
    """The prior that is asked for in the place of the shipped one ``name``, and what it is.

    Raises:
        FileNotFoundError: it is no name and no folder.
        ValueError: it is of other channels or another context.
    """
    shipped = bd.load_pretrained(name)
    if asked.prior in (None, name):
        return shipped, f"the shipped prior {name}"
    if asked.prior == "twin":
        return replace(shipped, denoiser=shipped.twin), f"the Gaussian twin of {name}"
    known = bd.list_pretrained()
    if asked.prior not in known and not Path(asked.prior).is_dir():
        raise FileNotFoundError(
            f"--prior must be {', '.join((*known, 'twin'))} or the folder of a saved model, got {asked.prior!r}"
        )
    found = bd.load_pretrained(asked.prior) if asked.prior in known else bd.load_model(asked.prior)
    fits, got = ((prior.event_shape[0], prior.context_names) for prior in (shipped, found))
    if fits != got:
        raise ValueError(
            f"the prior must have the channels and the context of {name}, {fits[0]} and {fits[1]}, got {got[0]} and "
            f"{got[1]}"
        )
    return found, f"the prior {asked.prior}"


def _bound(prior: bd.DiffusionModel) -> bd.Elbo | None:
    """What the density of a learned prior is estimated by; None for the closed form of a Gaussian one."""
    return None if is_gaussian(prior.denoiser) else bd.Elbo(num_times=32, num_noise=1)


def _extreme(site: str, of: Callable[[jax.Array], jax.Array], draw: Mapping[str, jax.Array], _: Any) -> jax.Array:
    return of(draw[site])


def _mean_where(site: str, where: jax.Array, draw: Mapping[str, jax.Array], _: Any) -> jax.Array:
    return jnp.sum(jnp.where(where, draw[site], 0.0)) / jnp.sum(where)


def _mass_of_quarter(draw: Mapping[str, jax.Array], _: Any) -> jax.Array:
    density = draw["surface_density"]
    height, width = density.shape[-2:]
    return jnp.mean(density[..., : height // 2, : width // 2])
