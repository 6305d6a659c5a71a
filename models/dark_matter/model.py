"""NumPyro models around the reconstruction of dark matter from stars.

With stars given, the reconstruction is an unconditional prior of the dark matter, and so a site of any model. Cosmology
follows from it without another network: stars depend on (Omega_m, sigma_8) only through the dark matter, so

    p(theta | stars) = integral p(theta | x) p(x | stars) dx,

the mean, over draws x of the reconstruction, of the posterior of the conditional emulator
(:mod:`models.density_fields`). That holds where the reconstruction was trained over the same prior of theta, the box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import xarray as xr

import bayesdiff as bd
from bayesdiff.diffusion.samplers import draw_prior
from models.dark_matter.prior import scales_of
from models.density_fields.likelihood import recommended_bound, recommended_surrogate
from models.density_fields.model import make_model as make_density_model
from models.density_fields.prior import scale_of

NUM_STEPS = 12
LARGEST_BATCH = 20 * 64**2
"""Pixels of the fields that are drawn at a time."""


def make_model(reconstruction: bd.DiffusionModel, stars: np.ndarray) -> Callable:
    """The dark matter behind a map of stars, to be extended by whatever else is observed of it.

    Args:
        reconstruction: a model of :mod:`models.dark_matter.prior`.
        stars: stellar mass per pixel, (H, W), in units of the mean mass of a galaxy.

    Returns:
        A NumPyro model with the site ``x``, (1, H, W), the standardised log10 of the surface density, and
        ``surface_density`` [(Msun/h) / (Mpc/h)^2]. Used with ``numpyro.handlers`` or called in another model.
    """
    scales = scales_of(reconstruction)
    prior = reconstruction.given(scales.stars.maps(stars))

    def model():
        x = numpyro.sample("x", bd.DiffusionPrior(prior))
        return numpyro.deterministic("surface_density", scales.density.surface_density(x))

    return model


def draw(
    key: jax.Array, reconstruction: bd.DiffusionModel, stars: np.ndarray, num: int, num_steps: int = NUM_STEPS
) -> np.ndarray:
    """Draws of the dark matter given stars.

    Args:
        key: random key.
        reconstruction: a model of :mod:`models.dark_matter.prior`.
        stars: stellar mass per pixel, (H, W).
        num: of draws.
        num_steps: of the probability flow, two evaluations of the network each.

    Returns:
        Standardised fields, (num, 1, H, W).
    """
    maps = jnp.asarray(scales_of(reconstruction).stars.maps(stars))
    return np.asarray(_draw(jax.random.split(key, num), reconstruction, maps, num_steps))


@partial(jax.jit, static_argnames="num_steps")
def _draw(keys: jax.Array, reconstruction: bd.DiffusionModel, maps: jax.Array, num_steps: int) -> jax.Array:
    model = reconstruction.given(maps)
    # Wide fields one by one, for their memory.
    together = max(1, min(len(keys), LARGEST_BATCH // model.size))
    one = lambda key: draw_prior(key, model, model.context_array(None), num_steps)  # noqa: E731
    return jax.lax.map(one, keys, batch_size=together)


def cosmology_given(
    key: jax.Array,
    reconstruction: bd.DiffusionModel,
    emulator: bd.DiffusionModel,
    stars: np.ndarray,
    num_fields: int = 8,
    progress: bool = True,
) -> Iterator[xr.DataTree]:
    """Posteriors of (Omega_m, sigma_8) for draws of the dark matter; together they are the one given the stars.

    Args:
        key: random key.
        reconstruction: a model of :mod:`models.dark_matter.prior`.
        emulator: a model of :mod:`models.density_fields.prior`.
        stars: stellar mass per pixel, (H, W).
        num_fields: draws of the dark matter.
        progress: show that of every run.

    Yields:
        One result of :func:`bayesdiff.sample` for each, with the same number of draws.
    """
    field_key, key = jax.random.split(key)
    density = scales_of(reconstruction).density.surface_density(draw(field_key, reconstruction, stars, num_fields))
    fields = jnp.asarray(scale_of(emulator).field(density))
    model = make_density_model(emulator, recommended_bound(emulator))
    algorithm = recommended_surrogate(emulator)
    for index, x in enumerate(fields):
        yield bd.sample(jax.random.fold_in(key, index), model, x, algorithm=algorithm, progress=progress)
