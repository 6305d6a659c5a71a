r"""CIB and tSZ from maps at 95 and 150 GHz, their amplitudes unknown.

.. math:: m_\nu = A_{\rm cib} \, f_\nu \, C(x) + A_{\rm tsz} \, g_\nu \, T(x) + {\rm CMB} + n_\nu ,

with x from a diffusion prior of both fields, C and T the maps at 150 GHz that its card makes of it, f and g the
responses of 95 GHz and 1 at 150 GHz. CMB and noise are Gaussian with known power and are integrated out: given the
foregrounds, the two modes of each k have the covariance

.. math:: P_{\rm cmb}(k) \begin{pmatrix} 1 & 1 \\ 1 & 1 \end{pmatrix}
          + \begin{pmatrix} N_{95} & 0 \\ 0 & N_{150} \end{pmatrix}

and the mean of a map is not looked at. The prior knows the fields of amplitude one: an amplitude says how much brighter
or fainter the sky is than the simulations of the prior. Prabhu et al. (2025, arXiv:2506.09036) name this use of their
model. The field is sampled as unit normal values under the probability flow (``bd.noncentred``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import bayesdiff as bd
from bayesdiff.diffusion.sums import accurate_sum
from models.cib_tsz.observation import FIELDS, mix, noise_power
from models.cib_tsz.scale import scale_of

AMPLITUDES = (0.2, 5.0)
NUM_STEPS = 8
"""Steps of the flow. Their number fixes the cost of a gradient; the study measures what more would change."""


class CorrelatedMaps(dist.Distribution):
    """Maps whose Gaussian part is correlated between them, mode by mode; modes without power are not looked at.

    Args:
        loc: mean, (..., C, H, W).
        covariance: of the modes, orthonormal, real and even, (C, C, H, W): in every mode positive definite, or zero.

    The event shape is (C, H, W).

    Raises:
        ValueError: the shapes do not fit.
    """

    support = constraints.independent(constraints.real, 3)  # pyright: ignore[reportAssignmentType]
    arg_constraints = {"loc": constraints.real}
    pytree_data_fields = ("loc", "root", "inverse", "log_volume")

    def __init__(self, loc: Any, covariance: np.ndarray, *, validate_args: bool | None = None):
        self.loc = jnp.asarray(loc)
        num = self.loc.shape[-3]
        if np.shape(covariance) != (num, num, *self.loc.shape[-2:]):
            expected = (num, num, *self.loc.shape[-2:])
            raise ValueError(f"covariance must have shape {expected}, got {np.shape(covariance)}")
        matrices = np.moveaxis(np.asarray(covariance, dtype=np.float64), (0, 1), (-2, -1))
        seen = np.einsum("hwii->hw", matrices) > 0
        root = np.linalg.cholesky(np.where(seen[..., None, None], matrices, np.eye(num)))
        diagonal = np.einsum("hwii->hwi", root)
        volume = np.sum(seen[..., None] * (np.log(diagonal) + 0.5 * np.log(2.0 * np.pi)))
        inverse = np.linalg.inv(root)
        self.root, self.inverse = (
            jnp.asarray(np.moveaxis(np.where(seen[..., None, None], m, 0.0), (-2, -1), (0, 1)), self.loc.dtype)
            for m in (root, inverse)
        )
        self.log_volume = jnp.asarray(volume, self.loc.dtype)
        super().__init__(self.loc.shape[:-3], self.loc.shape[-3:], validate_args=validate_args)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw maps, sample_shape + batch_shape + (C, H, W)."""
        white = jax.random.normal(key, tuple(sample_shape) + self.batch_shape + self.event_shape, self.loc.dtype)
        return self.loc + _apply(self.root, white)

    def log_prob(self, value: Any) -> jax.Array:
        """Log density of maps (..., C, H, W).

        Raises:
            ValueError: the maps have another number of channels or pixels.
        """
        if jnp.shape(value)[-3:] != self.event_shape:
            raise ValueError(
                f"maps must have shape (..., {', '.join(map(str, self.event_shape))}), got {jnp.shape(value)}"
            )
        whitened = _apply(self.inverse, jnp.asarray(value) - self.loc)
        return -0.5 * accurate_sum(whitened**2) - self.log_volume


def _apply(matrix: jax.Array, maps: jax.Array) -> jax.Array:
    half = maps.shape[-1] // 2 + 1
    modes = jnp.einsum("ijhw,...jhw->...ihw", matrix[..., :half], jnp.fft.rfft2(maps, norm="ortho"))
    return jnp.fft.irfft2(modes, s=maps.shape[-2:], norm="ortho").astype(maps.dtype)


def noise_covariance(cmb: np.ndarray, noise: tuple[float, float]) -> np.ndarray:
    """Covariance of the modes of CMB and noise at both frequencies, (2, 2, H, W) [micro-K^2]; zero at k = 0.

    Args:
        cmb: its power, (H, W) [micro-K^2].
        noise: depths [micro-K arcmin].
    """
    covariance = np.asarray(cmb, dtype=np.float64) + np.diag(noise_power(noise))[:, :, None, None]
    covariance[..., 0, 0] = 0.0
    return covariance


def make_model(
    prior: bd.DiffusionModel, noise: tuple[float, float], cmb: np.ndarray, num_steps: int | None = NUM_STEPS
) -> Callable:
    """The NumPyro model of maps at 95 and 150 GHz, with the field as a non-centred site.

    Args:
        prior: diffusion prior of CIB and tSZ at 150 GHz, without context.
        noise: depths of the maps [micro-K arcmin].
        cmb: power of the CMB, (H, W) [micro-K^2].
        num_steps: steps of the probability flow, under which the field is a non-centred site; None leaves the field as
            it is, for ``GibbsDiffusion``.

    Returns:
        A model of ``maps`` (2, H, W) with sites ``A_cib``, ``A_tsz``, ``x`` (2, H, W; its unit normal values at
        ``x_base``), ``cib`` and ``tsz`` (1, H, W) at 150 GHz with their amplitudes [micro-K], and ``maps``.

    Raises:
        ValueError: the prior or the CMB does not fit.
    """
    scale = scale_of(prior, FIELDS)
    if prior.context_names or np.shape(cmb) != prior.event_shape[-2:]:
        raise ValueError(
            f"a prior without context and a CMB power {prior.event_shape[-2:]} expected, got the context "
            f"{prior.context_names} and {np.shape(cmb)}"
        )
    covariance = noise_covariance(cmb, noise)

    def model(maps=None):
        a_cib = jnp.asarray(numpyro.sample("A_cib", dist.LogUniform(*AMPLITUDES)))
        a_tsz = jnp.asarray(numpyro.sample("A_tsz", dist.LogUniform(*AMPLITUDES)))
        x = jnp.asarray(numpyro.sample("x", bd.DiffusionPrior(prior)))
        foregrounds = scale.maps(x) * jnp.stack([a_cib, a_tsz])[:, None, None]
        numpyro.deterministic("cib", foregrounds[:1])
        numpyro.deterministic("tsz", foregrounds[1:])
        numpyro.sample("maps", CorrelatedMaps(mix(foregrounds), covariance), obs=maps)

    return model if num_steps is None else bd.noncentred(model, num_steps=num_steps)
