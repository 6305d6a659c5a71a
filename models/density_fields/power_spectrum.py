r"""Cosmology from the power spectrum of a dark-matter field: the baseline of what two-point statistics can tell.

The summary of a standardised field is t = [its mean, log10 of its power in bins of |k|], with the Gaussian likelihood

.. math:: t \sim N(\mu(\theta), D(\theta) R D(\theta)),

in which mu and log D^2, diagonal, are polynomials in the parameters mapped to [-1, 1], of total degree 3 and 2, and the
correlation matrix R is constant. mu is fitted by least squares, log D^2 by gamma regression on the squared residuals,
which is unbiased for the variance whatever the law of t, and R to the residuals divided by D.

The mean belongs to the summary: it is the mode k = 0 of the field, which the field-level likelihood sees, and that of a
logarithm is not fixed by the conservation of mass. A baseline without it would be the weaker for it.

Maps of one simulation are correlated. The fit does not mind, but it has fewer independent fields than maps. The
covariance is raised by N / (N - terms - len(t) - 1), so that the inverse is unbiased after a fit of the mean (Hartlap,
Simon & Schneider 2007, arXiv:astro-ph/0608064), with N the number of simulations, as if their maps were copies of one:
of 650 simulations this widens posteriors by 2 %, the most that it can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike

from bayesdiff.diffusion.gaussian_family import polynomial_terms
from bayesdiff.fields import power_spectrum
from models.density_fields.data import MAPS_PER_SIMULATION, PARAMETER_BOUNDS
from models.density_fields.model import cosmology, observe

NUM_BINS = 12
MEAN_DEGREE, VARIANCE_DEGREE = 3, 2
NUM_SCORING_STEPS = 30
CHUNK = 1024


class Moments(NamedTuple):
    """Posterior mean and standard deviation of the parameters of each field, (N, num_parameters) both."""

    mean: np.ndarray
    sd: np.ndarray


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class PowerSpectrumBaseline:
    """Gaussian likelihood of the summary of a field.

    Attributes:
        mean: coefficients of mu, shape (terms, summaries).
        log_variance: coefficients of log D^2, shape (terms, summaries).
        correlation: Cholesky factor of R, shape (summaries, summaries).
        low: lower ends of the parameters' range, shape (num_parameters,).
        high: upper ends.
        size: pixels on a side of the fields.
        num_bins: of |k|; 0 for the mean alone.
        with_mean: whether the mean of the field is part of the summary.
    """

    mean: jax.Array
    log_variance: jax.Array
    correlation: jax.Array
    low: jax.Array
    high: jax.Array
    size: int = field(metadata={"static": True})
    num_bins: int = field(metadata={"static": True})
    with_mean: bool = field(metadata={"static": True}, default=True)

    def summary(self, fields: ArrayLike) -> jax.Array:
        """The summary t of standardised fields (..., 1, size, size), shape (..., summaries).

        Raises:
            ValueError: fields of another shape.
        """
        shape = jnp.shape(fields)
        if shape[-3:] != (1, self.size, self.size):
            raise ValueError(f"fields must have shape (..., 1, {self.size}, {self.size}), got {shape}")
        fields = jnp.asarray(fields)
        parts = [jnp.mean(fields, axis=(-2, -1))] if self.with_mean else []
        if self.num_bins:
            power = power_spectrum(fields, edges=bin_edges(self.size, self.num_bins)).power
            parts.append(jnp.log10(power[..., 0, :]))
        return jnp.concatenate(parts, axis=-1)

    def at(self, parameters: jax.Array) -> dist.MultivariateNormal:
        """The law of t at parameters (num_parameters,)."""
        mean, variance = (
            polynomial_terms(parameters, self.low, self.high, degree) @ coefficients
            for degree, coefficients in ((MEAN_DEGREE, self.mean), (VARIANCE_DEGREE, self.log_variance))
        )
        return dist.MultivariateNormal(mean, scale_tril=jnp.exp(0.5 * variance)[:, None] * self.correlation)

    def restricted(self, mean: bool = True, spectrum: bool = True) -> PowerSpectrumBaseline:
        """The baseline of the field's mean alone, or of the spectrum alone.

        Raises:
            ValueError: neither is asked for, or one that this baseline has not.
        """
        if not (mean or spectrum) or (mean and not self.with_mean) or (spectrum and not self.num_bins):
            raise ValueError(
                f"a summary of mean={self.with_mean}, spectrum={bool(self.num_bins)} cannot be restricted to "
                f"mean={mean}, spectrum={spectrum}"
            )
        kept = np.r_[[mean] * self.with_mean, [spectrum] * self.num_bins].astype(bool)
        matrix = np.asarray(self.correlation @ self.correlation.T, np.float64)[np.ix_(kept, kept)]
        return replace(
            self,
            mean=self.mean[:, kept],
            log_variance=self.log_variance[:, kept],
            correlation=jnp.asarray(np.linalg.cholesky(matrix), self.correlation.dtype),
            num_bins=self.num_bins if spectrum else 0,
            with_mean=mean,
        )


def bin_edges(size: int, num_bins: int) -> np.ndarray:
    """Edges of bins of |k| in units of the fundamental mode: |k| < 1.9, then even in log |k| to the corner."""
    return np.r_[0.9, np.geomspace(1.9, 1.001 * np.hypot(0.5, 0.5) * size, num_bins)]


def untrained_power_spectrum(
    size: int, num_bins: int = NUM_BINS, bounds: Mapping[str, tuple[float, float]] = PARAMETER_BOUNDS
) -> PowerSpectrumBaseline:
    """A baseline whose summary is unit normal at all parameters: the shapes of one."""
    low, high = (jnp.asarray(ends, dtype=float) for ends in zip(*bounds.values(), strict=True))
    mean, variance = (
        jnp.zeros((polynomial_terms(low, low, high, degree).size, num_bins + 1))
        for degree in (MEAN_DEGREE, VARIANCE_DEGREE)
    )
    return PowerSpectrumBaseline(mean, variance, jnp.eye(num_bins + 1), low, high, size, num_bins)


def fit_power_spectrum(
    fields: np.ndarray,
    parameters: np.ndarray,
    fields_per_simulation: int = MAPS_PER_SIMULATION,
    num_bins: int = NUM_BINS,
    bounds: Mapping[str, tuple[float, float]] = PARAMETER_BOUNDS,
) -> PowerSpectrumBaseline:
    """Fit the likelihood to simulated fields.

    Args:
        fields: standardised, shape (N, 1, size, size).
        parameters: of each, shape (N, num_parameters).
        fields_per_simulation: fields that share an initial field and so are not independent.
        num_bins: of |k|.
        bounds: range of each parameter.

    Raises:
        ValueError: shapes that do not fit one another, parameters outside their range, or too few simulations.
    """
    if parameters.shape != (len(fields), len(bounds)):
        raise ValueError(f"parameters of {len(fields)} fields must have shape {(len(fields), len(bounds))}, got "
                         f"{parameters.shape}")  # fmt: skip
    low, high = (np.asarray(ends, np.float64) for ends in zip(*bounds.values(), strict=True))
    if not ((parameters >= low) & (parameters <= high)).all():
        raise ValueError(f"parameters must lie between {low} and {high}")
    start = untrained_power_spectrum(np.shape(fields)[-1], num_bins, bounds)
    num, spent = len(fields) // fields_per_simulation, len(start.mean) + num_bins + 2
    if num <= 2 * spent:
        raise ValueError(f"a fit of {num_bins} bins needs more than {2 * spent} simulations, got {num}")
    t = summaries(start, fields)
    cubic, quadratic = (
        np.asarray(jax.vmap(lambda x, n=n: polynomial_terms(x, low, high, n))(jnp.asarray(parameters)), np.float64)
        for n in (MEAN_DEGREE, VARIANCE_DEGREE)
    )
    mean = np.linalg.lstsq(cubic, t, rcond=None)[0]
    residual = t - cubic @ mean
    log_variance = np.zeros((quadratic.shape[1], t.shape[1]))
    log_variance[0] = np.log(np.mean(residual**2, axis=0))
    for _ in range(NUM_SCORING_STEPS):
        excess = residual**2 * np.exp(-quadratic @ log_variance) - 1.0
        log_variance += np.linalg.lstsq(quadratic, excess, rcond=None)[0]
    log_variance[0] += np.log(num / (num - spent))
    correlation = np.linalg.cholesky(np.corrcoef(residual * np.exp(-0.5 * quadratic @ log_variance), rowvar=False))
    arrays = (jnp.asarray(x, dtype=float) for x in (mean, log_variance, correlation, low, high))
    return PowerSpectrumBaseline(*arrays, size=start.size, num_bins=num_bins)


def summaries(baseline: PowerSpectrumBaseline, fields: np.ndarray) -> np.ndarray:
    """The summaries of many fields (N, 1, size, size), a part at a time, shape (N, summaries) in float64."""
    parts = [fields[first : first + CHUNK] for first in range(0, len(fields), CHUNK)]
    compute = jax.jit(baseline.summary)
    return np.concatenate([np.asarray(compute(part), np.float64) for part in parts])


def make_power_spectrum_model(baseline: PowerSpectrumBaseline) -> Callable:
    """Cosmology from the summary of fields.

    Args:
        baseline: the likelihood; :meth:`PowerSpectrumBaseline.restricted` has that of a part of the summary.

    Returns:
        A NumPyro model of ``summary``, which is ``baseline.summary`` of one field, shape (summaries,), or of several
        independent ones of one cosmology, (num, summaries).
    """

    def model(summary=None, num_fields: int | None = None):
        observe("summary", baseline.at(jnp.stack(cosmology())), summary, num_fields)

    return model


def posterior_moments(baseline: PowerSpectrumBaseline, fields: np.ndarray, num_points: int = 100) -> Moments:
    """Moments of the posterior of each field, under a uniform prior in the box.

    Args:
        baseline: the likelihood.
        fields: standardised, shape (N, 1, size, size).
        num_points: along each parameter; posteriors must be wider than their distance.
    """
    moments = []
    for points, weight in _posteriors(baseline, fields, num_points):
        average = weight @ points
        moments.append((average, np.sqrt(weight @ (points - average) ** 2)))
    return Moments(*(np.array(column) for column in zip(*moments, strict=True)))


def draw_parameters(
    rng: np.random.Generator, baseline: PowerSpectrumBaseline, fields: np.ndarray, num_points: int = 100
) -> np.ndarray:
    """One draw from the posterior of each field, under a uniform prior in the box, (N, num_parameters).

    Args:
        rng: random numbers.
        baseline: the likelihood.
        fields: standardised, shape (N, 1, size, size).
        num_points: along each parameter; the draw is even within a cell of this grid.
    """
    cell = np.asarray(baseline.high - baseline.low) / num_points
    draws = []
    for points, weight in _posteriors(baseline, fields, num_points):
        chosen = points[rng.choice(len(points), p=weight)]
        draws.append(chosen + cell * rng.uniform(-0.5, 0.5, len(cell)))
    return np.array(draws)


def log_evidence(baseline: PowerSpectrumBaseline, summary: ArrayLike, num_points: int = 40) -> jax.Array:
    """Log of the density of a summary (summaries,), averaged over the box of parameters."""
    points = jnp.asarray(_box_points(baseline, num_points), dtype=float)
    densities = jax.vmap(lambda point: baseline.at(point).log_prob(jnp.asarray(summary)))(points)
    return jax.nn.logsumexp(densities) - jnp.log(len(points))


def _box_points(baseline: PowerSpectrumBaseline, num_points: int) -> np.ndarray:
    """Centres of the cells of a grid over the box, (num_points^d, d)."""
    middle = (np.arange(num_points) + 0.5) / num_points
    unit = np.stack(np.meshgrid(*[middle] * len(baseline.low), indexing="ij"), axis=-1).reshape(-1, len(baseline.low))
    return np.asarray(baseline.low) + unit * np.asarray(baseline.high - baseline.low)


def _posteriors(
    baseline: PowerSpectrumBaseline, fields: np.ndarray, num_points: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Points of the grid and their probability, for each field."""
    points = _box_points(baseline, num_points)
    laws = jax.jit(jax.vmap(baseline.at))(jnp.asarray(points, dtype=float))
    mean = np.asarray(laws.loc, np.float64)
    scale = np.asarray(jnp.diagonal(laws.scale_tril, axis1=-2, axis2=-1) / jnp.diagonal(baseline.correlation))
    whiten = np.linalg.inv(np.asarray(baseline.correlation, np.float64)).T
    for t in summaries(baseline, fields):
        square = np.sum((((t - mean) / scale) @ whiten) ** 2, axis=1)
        log_density = -0.5 * square - np.log(scale).sum(axis=1)
        weight = np.exp(log_density - log_density.max())
        yield points, weight / weight.sum()
