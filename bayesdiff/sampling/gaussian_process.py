"""Interpolation of a smooth scalar function of a few parameters by a Gaussian process, with its uncertainty.

The prior is a quadratic polynomial with Gaussian weights plus a squared-exponential process with one length per parameter, plus
independent noise (Rasmussen & Williams 2006, chapter 2). Length scales, amplitudes and noise maximise the marginal likelihood.
Fitting is a small float64 problem in NumPy; prediction is a JAX function of arrays padded to a fixed size, so that designs
of growing size share one compiled program.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

SMALLEST_NOISE = 0.02


class Interpolant(NamedTuple):
    """A fitted process; arrays are padded to a fixed number of design points.

    Attributes:
        centre: shift of the parameters, (d,).
        whitening: matrix that maps shifted parameters to unit covariance, (d, d).
        design: whitened design points, (N, d).
        present: 1 for design points, 0 for padding, (N,).
        weights: coefficients of the kernel at the design points, (N,).
        precision: inverse of the covariance of the observations, (N, N).
        scales: squared-exponential lengths, (d,).
        amplitudes: standard deviations of constant, linear, quadratic and squared-exponential parts, (4,).
        offset: mean of the observations.
    """

    centre: jax.Array
    whitening: jax.Array
    design: jax.Array
    present: jax.Array
    weights: jax.Array
    precision: jax.Array
    scales: jax.Array
    amplitudes: jax.Array
    offset: jax.Array

    def __call__(self, q: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Posterior mean and standard deviation (without the noise) at parameters (d,)."""
        point = self.whitening @ (q - self.centre)
        covariance = _covariance(point[None], self.design, self.scales, self.amplitudes, jnp)[0] * self.present
        prior = _covariance(point[None], point[None], self.scales, self.amplitudes, jnp)[0, 0]
        variance = prior - covariance @ (self.precision @ covariance)
        return self.offset + covariance @ self.weights, jnp.sqrt(jnp.maximum(variance, 1e-6))


class Fit(NamedTuple):
    """A fitted process and how well it predicts each design point from the others."""

    interpolant: Interpolant
    leave_one_out: np.ndarray
    noise: float


def fit(points: np.ndarray, values: np.ndarray, centre: np.ndarray, whitening: np.ndarray, size: int) -> Fit:
    """Fit the process.

    Args:
        points: design points, (n, d).
        values: the function there, (n,).
        centre: shift of the parameters.
        whitening: matrix that gives the region of interest unit covariance.
        size: number of points to pad to, at least n.

    Returns:
        The fit; ``leave_one_out`` are the residuals value minus prediction without that value (there, section 5.4.2).
    """
    x = (points - centre) @ whitening.T
    offset = float(values.mean())
    y = values - offset
    num_scales = x.shape[1]
    spread = max(float(y.std()), 0.1)

    def unpack(log_hyper: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        scales = np.exp(log_hyper[:num_scales])
        linear, quadratic, wiggle, noise = np.exp(log_hyper[num_scales:])
        return scales, np.array([3.0 * spread + 10.0, linear, quadratic, wiggle]), noise

    def factor(log_hyper: np.ndarray):
        scales, amplitudes, noise = unpack(log_hyper)
        covariance = _covariance(x, x, scales, amplitudes, np) + (noise**2 + SMALLEST_NOISE**2) * np.eye(len(x))
        return cho_factor(covariance, lower=True)

    def objective(log_hyper: np.ndarray) -> float:
        try:
            chol = factor(log_hyper)
        except np.linalg.LinAlgError:
            return 1e10
        log_likelihood = -0.5 * y @ cho_solve(chol, y) - np.sum(np.log(np.diag(chol[0])))
        penalty = 0.5 * np.sum(((log_hyper - start) / 1.5) ** 2)
        return float(penalty - log_likelihood)

    start = np.concatenate([np.full(num_scales, np.log(3.0)), np.log([spread, 0.5 * spread, 0.5 * spread, 0.1])])
    bounds = (
        [(np.log(0.7), np.log(20.0))] * num_scales + [(np.log(1e-2), np.log(1e4))] * 3 + [(np.log(1e-3), np.log(1.0))]
    )
    best = minimize(objective, start, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x
    scales, amplitudes, noise = unpack(best)
    precision = cho_solve(factor(best), np.eye(len(x)))
    weights = precision @ y

    def padded(array: np.ndarray) -> jax.Array:
        return jnp.asarray(np.pad(array, [(0, size - len(x))] + [(0, 0)] * (array.ndim - 1)), dtype=float)

    square = np.zeros((size, size))
    square[: len(x), : len(x)] = precision
    interpolant = Interpolant(
        centre=jnp.asarray(centre, dtype=float),
        whitening=jnp.asarray(whitening, dtype=float),
        design=padded(x),
        present=padded(np.ones(len(x))),
        weights=padded(weights),
        precision=jnp.asarray(square, dtype=float),
        scales=jnp.asarray(scales, dtype=float),
        amplitudes=jnp.asarray(amplitudes, dtype=float),
        offset=jnp.asarray(offset, dtype=float),
    )
    return Fit(interpolant, weights / np.diag(precision), float(noise))


def _covariance(a, b, scales, amplitudes, xp):
    """Prior covariance between points (m, d) and (n, d): polynomial and squared-exponential parts."""
    inner = a @ b.T
    distance = ((a / scales)[:, None, :] - (b / scales)[None, :, :]) ** 2
    wiggle = xp.exp(-0.5 * distance.sum(axis=-1))
    constant, linear, quadratic, amplitude = (amplitudes[i] ** 2 for i in range(4))
    return constant + linear * inner + 0.5 * quadratic * inner**2 + amplitude * wiggle
