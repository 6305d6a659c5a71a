"""A statistic over an ensemble of maps: mean, scatter and percentile band, and agreement with a reference ensemble.

Any array with one entry per map will do: spectra, histograms, Minkowski functionals, cumulants, peak profiles.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.fields.inputs import refuse_bad_values


class EnsembleSummary(NamedTuple):
    """A statistic over samples; every array has the statistic's shape without the axis of samples, and its units.

    Attributes:
        mean: over the samples.
        standard_deviation: of one sample, the square root of the unbiased variance; NaN for a single sample.
        standard_error: of the mean of independent samples.
        lower: lower percentile.
        median: of the samples.
        upper: upper percentile.
        num_samples: number of samples that are not NaN.
    """

    mean: jax.Array
    standard_deviation: jax.Array
    standard_error: jax.Array
    lower: jax.Array
    median: jax.Array
    upper: jax.Array
    num_samples: jax.Array


class ChiSquare(NamedTuple):
    """Agreement of generated statistics with a reference ensemble.

    Attributes:
        generated: (num_generated, ...) reduced chi-square of each generated sample.
        reference: (num_reference, ...) the same of each reference sample against the others. A generator whose samples
            have the law of the references has the same expected value.
        z_scores: (num_generated, ..., num_bins) of each generated sample, in standard deviations of the references.
        mean_z_scores: (..., num_bins) of the difference of the two means, in its standard error if the generated
            samples have the references' variance.
    """

    generated: jax.Array
    reference: jax.Array
    z_scores: jax.Array
    mean_z_scores: jax.Array


def summarise_ensemble(
    statistic: ArrayLike, axis: int = 0, percentiles: tuple[float, float] = (10.0, 90.0)
) -> EnsembleSummary:
    """Mean, sample variance and percentile band of a statistic over an ensemble of independent samples.

    For example ``summarise_ensemble(power_spectrum(maps).power)`` with maps (num_maps, channels, height, width).

    Args:
        statistic: any array. NaN marks what a sample does not have, such as a peak profile without peaks, and is left
            out; where all samples are NaN so is the result.
        axis: of the samples.
        percentiles: of the band, each from 0 to 100.

    Raises:
        ValueError: if there is no axis, or no sample on it, or the percentiles do not increase from 0 or more to 100 or
            less.
    """
    statistic = jnp.asarray(statistic, jnp.result_type(statistic, float))
    if not -statistic.ndim <= axis < statistic.ndim or statistic.shape[axis] == 0:
        raise ValueError(f"a statistic with samples on axis {axis} expected, got shape {statistic.shape}")
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must be (low, high) with 0 <= low < high <= 100, got {percentiles}")
    samples = jnp.moveaxis(statistic, axis, 0)
    number = jnp.sum(~jnp.isnan(samples), axis=0)
    known = jnp.where(jnp.isnan(samples), 0.0, samples)
    mean = jnp.where(number > 0, jnp.sum(known, axis=0) / jnp.maximum(number, 1), jnp.nan)
    squares = jnp.sum(jnp.where(jnp.isnan(samples), 0.0, samples - mean) ** 2, axis=0)
    deviation = jnp.sqrt(jnp.where(number > 1, squares / jnp.maximum(number - 1, 1), jnp.nan))
    lower, median, upper = jnp.nanpercentile(samples, jnp.asarray([low, 50.0, high]), axis=0)
    error = deviation / jnp.sqrt(jnp.maximum(number, 1))
    return EnsembleSummary(mean, deviation, error, lower, median, upper, number)


def reduced_chi_square(generated: ArrayLike, reference: ArrayLike) -> ChiSquare:
    """Reduced chi-square and z-scores of generated spectra, or any binned statistic, against a reference ensemble.

    The reduced chi-square of a sample is the mean over the bins of ((sample - mean) / sd)^2. Its expectation is not 1,
    because mean and standard deviation are estimated and samples need not be normal, so each reference sample against
    the others gives the value to compare with. A generated sample is compared with the same leave-one-out ensembles,
    and the mean over them taken, which makes the two expectations equal to the letter for a perfect generator.
    Correlated bins leave the expectation as it is and widen the scatter, of both alike.

    Args:
        generated: (num_generated, ..., num_bins).
        reference: (num_reference, ..., num_bins), 3 or more independent samples. A bin in which they do not vary gives
            NaN or infinity.

    Raises:
        ValueError: if the shapes do not fit, there are too few references, or values are NaN or infinite.
    """
    refuse_bad_values("generated", generated)
    refuse_bad_values("reference", reference)
    dtype = jnp.result_type(generated, reference, float)
    generated, reference = jnp.asarray(generated, dtype), jnp.asarray(reference, dtype)
    if reference.ndim < 2 or generated.shape[1:] != reference.shape[1:] or min(len(generated), len(reference) - 2) < 1:
        raise ValueError(
            "generated (num_generated, ..., num_bins) and reference (num_reference, ..., num_bins) with 3 or more "
            f"references expected, got {generated.shape} and {reference.shape}"
        )
    mean, sd = jnp.mean(reference, axis=0), jnp.std(reference, axis=0, ddof=1)
    # Small units would underflow when squared.
    z_generated, z_reference = (generated - mean) / sd, (reference - mean) / sd
    number = len(reference)

    def leave_one_out(total: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        kept = (jnp.arange(number) != index).reshape(-1, *[1] * (reference.ndim - 1))
        center = jnp.sum(kept * z_reference, axis=0) / (number - 1)
        variance = jnp.sum(kept * (z_reference - center) ** 2, axis=0) / (number - 2)
        own = jnp.mean((z_reference[index] - center) ** 2 / variance, axis=-1)
        return total + jnp.mean((z_generated - center) ** 2 / variance, axis=-1), own

    total, left_out = jax.lax.scan(leave_one_out, jnp.zeros(generated.shape[:-1], dtype), jnp.arange(number))
    error = np.sqrt(1 / len(generated) + 1 / number)
    return ChiSquare(total / number, left_out, z_generated, jnp.mean(z_generated, axis=0) / error)
