"""NumPyro models around the reconstruction of dark matter from stars.

With stars given, the reconstruction is an unconditional prior of the dark matter, and so a site of any model. Cosmology
follows from it without another network: stars depend on theta = (Omega_m, sigma_8) only through the dark matter, so

    p(theta, x | stars) = p(theta | x) p(x | stars)

where the reconstruction was trained over the same prior of theta, the box. p(theta | x) is that of the power spectrum
and mean of x (:mod:`models.density_fields.power_spectrum`). The emulator's bound is not used for it: it knows fields of
simulations, and is misled by what a network drew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import bayesdiff as bd
from bayesdiff.diffusion.samplers import draw_prior
from models.dark_matter.prior import scales_of
from models.density_fields.model import cosmology
from models.density_fields.power_spectrum import PowerSpectrumBaseline, draw_parameters, log_evidence

NUM_EVALUATIONS = 28
NUM_STEPS = 8
"""Of the flow, where the dark matter is sampled as unit normal values."""
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


class OneOf(dist.Distribution):
    """One of given arrays, each as likely: a source of data sets for a model that asks what lies behind them.

    Args:
        arrays: (num, ...).
    """

    support = constraints.real  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("arrays",)

    def __init__(self, arrays: jax.Array, *, validate_args: bool | None = None):
        self.arrays = arrays
        super().__init__((), arrays.shape[1:], validate_args=validate_args)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw some, with replacement: (*sample_shape, ...)."""
        return self.arrays[jax.random.randint(key, tuple(sample_shape), 0, len(self.arrays))]

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The same for every value: none of a model's parameters has a part in it."""
        return jnp.full(jnp.shape(value)[: jnp.ndim(value) - self.event_dim], -jnp.log(len(self.arrays)))


def make_model_of_stars(reconstruction: bd.DiffusionModel, maps: jax.Array, num_steps: int = NUM_STEPS) -> Callable:
    """The dark matter behind maps of stars that are data, for one compiled program or a calibration study of many.

    Args:
        reconstruction: a model of :mod:`models.dark_matter.prior`.
        maps: of stars as they may occur, on the scale of the reconstruction, (num, 2, H, W); without data, one of them.
        num_steps: steps of the probability flow.

    Returns:
        A NumPyro model of ``stars`` (2, H, W), p(stars) p(x | stars), with sites ``x`` (1, H, W; its unit normal values
        at ``x_base``) and ``surface_density`` [(Msun/h) / (Mpc/h)^2].
    """
    scale = scales_of(reconstruction).density

    def model(stars=None):
        shown = numpyro.sample("stars", OneOf(maps), obs=stars)
        x = numpyro.sample("x", bd.DiffusionPrior(reconstruction.given(shown)))
        numpyro.deterministic("surface_density", scale.surface_density(x))

    return bd.noncentred(model, num_steps=num_steps)


def draw(
    key: jax.Array,
    reconstruction: bd.DiffusionModel,
    stars: np.ndarray,
    num: int,
    num_evaluations: int = NUM_EVALUATIONS,
) -> np.ndarray:
    """Draws of the dark matter given stars.

    Args:
        key: random key.
        reconstruction: a model of :mod:`models.dark_matter.prior`.
        stars: stellar mass per pixel, (H, W).
        num: of draws.
        num_evaluations: of the network, for a draw by the probability flow.

    Returns:
        Standardised fields, (num, 1, H, W).
    """
    maps = jnp.asarray(scales_of(reconstruction).stars.maps(stars))
    return np.asarray(_draw(jax.random.split(key, num), reconstruction, maps, num_evaluations))


@partial(jax.jit, static_argnames="num_evaluations")
def _draw(keys: jax.Array, reconstruction: bd.DiffusionModel, maps: jax.Array, num_evaluations: int) -> jax.Array:
    model = reconstruction.given(maps)
    # Wide fields one by one, for their memory.
    together = max(1, min(len(keys), LARGEST_BATCH // model.size))
    one = lambda key: draw_prior(key, model, model.context_array(None), num_evaluations)  # noqa: E731
    return jax.lax.map(one, keys, batch_size=together)


def make_joint_model(reconstruction: bd.DiffusionModel, spectrum: PowerSpectrumBaseline, stars: np.ndarray) -> Callable:
    """The dark matter behind a map of stars together with Omega_m and sigma_8, uniform in their box.

    Args:
        reconstruction: a model of :mod:`models.dark_matter.prior`.
        spectrum: likelihood of a field's spectrum.
        stars: stellar mass per pixel, (H, W), of the size that ``spectrum`` knows.

    Returns:
        A NumPyro model of density p(x | stars) p(theta | x); :func:`draw_joint` draws from it.
    """
    scales = scales_of(reconstruction)
    prior = reconstruction.given(scales.stars.maps(stars))

    def model():
        x = numpyro.sample("x", bd.DiffusionPrior(prior))
        summary = spectrum.summary(x)
        density = spectrum.at(jnp.stack(cosmology())).log_prob(summary)
        numpyro.factor("cosmology", density - log_evidence(spectrum, summary))

    return model


def draw_joint(
    key: jax.Array,
    reconstruction: bd.DiffusionModel,
    spectrum: PowerSpectrumBaseline,
    stars: np.ndarray,
    num: int,
    num_evaluations: int = NUM_EVALUATIONS,
) -> tuple[np.ndarray, np.ndarray]:
    """Independent draws of the dark matter and of the cosmology that it has.

    Args:
        key: random key.
        reconstruction: a model of :mod:`models.dark_matter.prior`.
        spectrum: likelihood of a field's spectrum, on the same scale.
        stars: stellar mass per pixel, (H, W).
        num: of draws.
        num_evaluations: of the network, for each field.

    Returns:
        Standardised fields (num, 1, H, W), and Omega_m and sigma_8 of each, (num, 2).
    """
    field_key, key = jax.random.split(key)
    fields = draw(field_key, reconstruction, stars, num, num_evaluations)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return fields, draw_parameters(rng, spectrum, fields)
