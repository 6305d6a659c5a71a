"""Interpolation of a smooth scalar function of a few parameters by a Gaussian process, with its uncertainty.

The prior is a quadratic polynomial with Gaussian weights plus a squared-exponential process with one length per
parameter, plus independent noise (Rasmussen & Williams 2006, chapter 2; the polynomial as in section 2.7). Length
scales, amplitudes and noise maximise the marginal likelihood. Fitting is a small float64 problem in NumPy; prediction
is a JAX function of arrays padded to a fixed size, so that designs of growing size share one compiled program. It
keeps the polynomial, whose variance is large, apart from the process, so that nothing cancels in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

SMALLEST_NOISE = 0.02


class Interpolant(NamedTuple):
    """A fitted process; arrays over the n design points are padded to a fixed size N.

    Attributes:
        centre: shift of the parameters, (d,).
        whitening: matrix that maps shifted parameters to unit covariance, (d, d).
        design: whitened design points, (N, d).
        present: 1 for design points, 0 for padding, (N,).
        scales: lengths of the squared-exponential process, (d,).
        amplitude: its standard deviation.
        weights: its coefficients at the design points, (N,).
        half_inverse: inverse Cholesky factor of its covariance with the noise, (N, N).
        coefficients: posterior mean of the p polynomial coefficients, (p,).
        explained: polynomial terms as the process interpolates them, (p, N).
        spread: factor B of the coefficients' posterior covariance B^T B, (p, p).
    """

    centre: jax.Array
    whitening: jax.Array
    design: jax.Array
    present: jax.Array
    scales: jax.Array
    amplitude: jax.Array
    weights: jax.Array
    half_inverse: jax.Array
    coefficients: jax.Array
    explained: jax.Array
    spread: jax.Array

    def __call__(self, q: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Posterior mean and standard deviation (without the noise) at parameters (d,)."""
        point = (self.whitening @ (q - self.centre))[None]
        covariance = _process(point, self.design, self.scales, self.amplitude, jnp)[0] * self.present
        terms = _polynomial(point, jnp)[0]
        mean = terms @ self.coefficients + covariance @ self.weights
        process = self.amplitude**2 - jnp.sum((self.half_inverse @ covariance) ** 2)
        polynomial = jnp.sum((self.spread @ (terms - self.explained @ covariance)) ** 2)
        return mean, jnp.sqrt(jnp.maximum(process, 1e-6) + polynomial)


def nothing(num_parameters: int, size: int) -> Interpolant:
    """The interpolant that is zero with certainty, padded like any other."""
    terms = (num_parameters + 1) * (num_parameters + 2) // 2
    d, n, p = (num_parameters,), (size,), (terms,)
    shapes = (d, d + d, n + d, n, d, (), n, n + n, p, p + n, p + p)
    empty = Interpolant(*(jnp.zeros(shape) for shape in shapes))
    return empty._replace(scales=jnp.ones(d))


class Fit(NamedTuple):
    """A fitted process and how well it predicts each design point from the others."""

    interpolant: Interpolant
    leave_one_out: np.ndarray
    noise: float


def fit(
    points: np.ndarray,
    values: np.ndarray,
    centre: np.ndarray,
    whitening: np.ndarray,
    size: int,
    doubt: np.ndarray | None = None,
) -> Fit:
    """Fit the process.

    Args:
        points: design points, (n, d).
        values: the function there, (n,).
        centre: shift of the parameters.
        whitening: matrix that gives the region of interest unit covariance.
        size: number of points to pad to, at least n.
        doubt: standard deviations of noise at each point beside the common one, (n,): what the process need not
            follow. The scale on which it varies is that of the points without.

    Returns:
        The fit; ``leave_one_out`` are the residuals value minus prediction without that value (there, section 5.4.2) of
        the points without doubt.
    """
    x = (points - centre) @ whitening.T
    terms = _polynomial(x, np)
    doubt = np.zeros(len(values)) if doubt is None else doubt
    certain = values[doubt == 0.0]
    offset = float(certain.mean())
    y = values - offset
    num, num_scales = x.shape
    spread = max(float(certain.std()), 0.1)

    def unpack(log_hyper: np.ndarray) -> tuple[np.ndarray, float, np.ndarray, float]:
        linear, quadratic, amplitude, noise = np.exp(log_hyper[num_scales:])
        squares = np.array([i == j for i in range(num_scales) for j in range(i, num_scales)])
        widths = np.concatenate(
            [[3.0 * spread + 10.0], np.full(num_scales, linear), quadratic * np.where(squares, np.sqrt(0.5), 1.0)]
        )
        return np.exp(log_hyper[:num_scales]), amplitude, widths, np.hypot(noise, SMALLEST_NOISE)

    def covariances(log_hyper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scales, amplitude, widths, noise = unpack(log_hyper)
        process = _process(x, x, scales, amplitude, np) + np.diag(noise**2 + doubt**2)
        return process, process + (terms * widths**2) @ terms.T

    def objective(log_hyper: np.ndarray) -> float:
        try:
            factor = cho_factor(covariances(log_hyper)[1], lower=True)
        except np.linalg.LinAlgError:
            return 1e10
        log_likelihood = -0.5 * y @ cho_solve(factor, y) - np.sum(np.log(np.diag(factor[0])))
        return float(0.5 * np.sum(((log_hyper - start) / 1.5) ** 2) - log_likelihood)

    start = np.concatenate([np.full(num_scales, np.log(3.0)), np.log([spread, 0.5 * spread, 0.5 * spread, 0.1])])
    bounds = [(np.log(0.7), np.log(20.0))] * num_scales
    bounds += [(np.log(1e-2), np.log(1e4))] * 2 + [(np.log(1e-2), np.log(1e2)), (np.log(1e-3), np.log(1.0))]
    best = minimize(objective, np.clip(start, *np.array(bounds).T), method="L-BFGS-B", bounds=bounds).x
    scales, amplitude, widths, noise = unpack(best)
    process, full = covariances(best)
    factor = np.linalg.cholesky(process)
    half_inverse = solve_triangular(factor, np.eye(num), lower=True)
    inverse = half_inverse.T @ half_inverse
    information = np.diag(widths**-2) + terms.T @ inverse @ terms
    coefficients = np.linalg.solve(information, terms.T @ inverse @ y)
    full_inverse = np.linalg.inv(full)
    coefficients_in_values = coefficients + np.eye(len(coefficients))[0] * offset

    def padded(array: np.ndarray, axes: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(np.pad(array, [(0, size - num if i in axes else 0) for i in range(array.ndim)]), dtype=float)

    interpolant = Interpolant(
        centre=jnp.asarray(centre, dtype=float),
        whitening=jnp.asarray(whitening, dtype=float),
        design=padded(x, (0,)),
        present=padded(np.ones(num), (0,)),
        scales=jnp.asarray(scales, dtype=float),
        amplitude=jnp.asarray(amplitude, dtype=float),
        weights=padded(inverse @ (y - terms @ coefficients), (0,)),
        half_inverse=padded(half_inverse, (0, 1)),
        coefficients=jnp.asarray(coefficients_in_values, dtype=float),
        explained=padded(terms.T @ inverse, (1,)),
        spread=jnp.asarray(np.linalg.inv(np.linalg.cholesky(information)), dtype=float),
    )
    return Fit(interpolant, (full_inverse @ y / np.diag(full_inverse))[doubt == 0.0], float(noise))


def _process(a, b, scales, amplitude, xp):
    """Squared-exponential covariance between points (m, d) and (n, d)."""
    distance = ((a / scales)[:, None, :] - (b / scales)[None, :, :]) ** 2
    return amplitude**2 * xp.exp(-0.5 * distance.sum(axis=-1))


def _polynomial(x, xp):
    """Constant, linear and quadratic terms of points (m, d), shape (m, p)."""
    size = x.shape[1]
    products = [x[:, i] * x[:, j] for i in range(size) for j in range(i, size)]
    return xp.concatenate([xp.ones_like(x[:, :1]), x, xp.stack(products, axis=1)], axis=1)
