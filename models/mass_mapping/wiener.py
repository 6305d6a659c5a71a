"""The Wiener reconstruction: the posterior of a Gaussian convergence at a given noise level, without sampling chains.

With kappa = mu + P^(1/2) u, u unit white noise, A the map from u to the shear and N the noise of the
observed pixels, the posterior of u is Gaussian with precision

    H = 1 + A^T N^-1 A   and mean   H^-1 A^T N^-1 (e - A mu),

and A mu is zero for a constant mu. The mask makes H dense in pixels and in modes alike, but products with it cost a few
Fourier transforms, so H u = b is solved by conjugate gradients. A posterior draw solves it for a perturbed right side,
b + A^T N^(-1/2) n_1 + n_2, whose covariance is H (Papandreou & Yuille 2010, Gaussian sampling by local perturbations).

:func:`dense_posterior` is the same by matrices, for small maps: the check of this and of sampled chains.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

from bayesdiff.cosmology import convergence_to_shear, shear_to_convergence
from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.fourier import filter_field
from models.mass_mapping.data import ShearMap, check_survey

TOLERANCE = 1e-5
MAX_ITERATIONS = 1000


class WienerMap(NamedTuple):
    """Posterior of the convergence under a Gaussian prior.

    Attributes:
        mean: (1, H, W).
        draws: (num_draws, 1, H, W).
        sd: of the draws about the mean, per pixel, (1, H, W).
        residual: largest relative residual of the solves, a number; near ``TOLERANCE``.
    """

    mean: np.ndarray
    draws: np.ndarray
    sd: np.ndarray
    residual: float


def wiener_map(
    key: jax.Array,
    observed: ShearMap,
    gaussian: GaussianDenoiser,
    level: float = 1.0,
    num_draws: int = 200,
) -> WienerMap:
    """Posterior mean, standard deviation and draws at noise level ``level``.

    Args:
        key: of the draws.
        observed: shear, mask and noise.
        gaussian: power and constant mean of the convergence.
        level: noise over that of the survey.
        num_draws: at least 2; the standard deviation is that of so many.

    Raises:
        ValueError: the survey does not fit, there are too few draws, or the solves did not converge.
    """
    shape = tuple(int(n) for n in np.shape(gaussian.power)[-2:])
    check_survey(observed.survey, shape)  # pyright: ignore[reportArgumentType]
    if num_draws < 2:
        raise ValueError(f"num_draws must be at least 2 for a standard deviation, got {num_draws}")
    mask = np.asarray(observed.survey.mask, dtype=bool)
    weight = jnp.asarray(np.where(mask, 1.0 / np.where(mask, level * observed.survey.noise_sd, 1.0), 0.0))
    data = jnp.asarray(observed.shear) * weight
    mean, draws, residual = _solve(key, data, weight, gaussian, num_draws)
    if not float(residual) < 100.0 * TOLERANCE:
        raise ValueError(f"conjugate gradients did not converge: relative residual {float(residual):.2g}")
    sd = np.sqrt(np.mean((np.asarray(draws) - np.asarray(mean)) ** 2, axis=0))
    return WienerMap(np.asarray(mean), np.asarray(draws), sd, float(residual))


def dense_posterior(
    observed: ShearMap, gaussian: GaussianDenoiser, level: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean (N,), covariance (N, N) of kappa and log p(shear) at noise level ``level``, by matrices, in float64.

    For maps of N = H W up to about a thousand pixels.
    """
    height, width = np.shape(gaussian.power)[-2:]
    num = height * width
    with jax.enable_x64(True):
        pixels = jnp.eye(num).reshape(num, 1, height, width)
        root = filter_field(pixels, jnp.sqrt(jnp.asarray(np.asarray(gaussian.power, dtype=np.float64))))
        # Row p of each is the response to pixel p.
        response = np.asarray(convergence_to_shear(pixels)).reshape(num, -1).T
        root = np.asarray(root).reshape(num, num).T
    seen = np.tile(np.asarray(observed.survey.mask, dtype=bool).ravel(), 2)
    response, residual = response[seen], observed.shear.ravel()[seen].astype(np.float64)
    prior = root @ root.T
    variance = (level * observed.survey.noise_sd.ravel()[seen].astype(np.float64)) ** 2
    total = response @ prior @ response.T + np.diag(variance)
    gain = np.linalg.solve(total, response @ prior).T
    log_density = -0.5 * residual @ np.linalg.solve(total, residual) - 0.5 * np.linalg.slogdet(2 * np.pi * total)[1]
    mean = np.broadcast_to(np.asarray(gaussian.mean, dtype=np.float64), (1, height, width)).ravel()
    return mean + gain @ residual, prior - gain @ response @ prior, float(log_density)


def _apply(u: jax.Array, weight: jax.Array, root: jax.Array) -> jax.Array:
    """Whitened shear N^(-1/2) A u, (2, H, W)."""
    return weight * convergence_to_shear(filter_field(u, root))


def _transpose(shear: jax.Array, weight: jax.Array, root: jax.Array) -> jax.Array:
    """A^T N^(-1/2) of a whitened shear, (1, H, W)."""
    return filter_field(shear_to_convergence(weight * shear)[:1], root)


@partial(jax.jit, static_argnames="num_draws")
def _solve(
    key: jax.Array, data: jax.Array, weight: jax.Array, gaussian: GaussianDenoiser, num_draws: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    root = jnp.sqrt(jnp.broadcast_to(gaussian.power, (1, *data.shape[-2:])))

    def precision(u: jax.Array) -> jax.Array:
        return u + _transpose(_apply(u, weight, root), weight, root)

    def solved(b: jax.Array) -> tuple[jax.Array, jax.Array]:
        u, _ = cg(precision, b, tol=TOLERANCE, maxiter=MAX_ITERATIONS)
        residual = jnp.linalg.norm(precision(u) - b) / jnp.linalg.norm(b)
        return gaussian.mean + filter_field(u, root), residual

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_data, of_prior = jax.random.split(key)
        noisy = data + jax.random.normal(of_data, data.shape, data.dtype)
        return solved(_transpose(noisy, weight, root) + jax.random.normal(of_prior, root.shape, data.dtype))

    mean, residual = solved(_transpose(data, weight, root))
    draws, residuals = jax.lax.map(draw, jax.random.split(key, num_draws))
    return mean, draws, jnp.maximum(residual, jnp.max(residuals))
