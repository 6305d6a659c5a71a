"""Ensemble summaries against NumPy, chi-squares against their exact expectation and against wrong generators."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bayesdiff.fields import power_spectrum, reduced_chi_square, summarise_ensemble
from tests.field_toys import gaussian_fields, red_power, z_of_mean


def test_summary_agrees_with_numpy_and_leaves_out_nan() -> None:
    samples = np.random.default_rng(1).gamma(2.0, size=(40, 3, 5)).astype(np.float32)
    samples[3, 1, 2] = samples[7, 1, 2] = np.nan
    samples[:, 2, 4] = np.nan
    result = summarise_ensemble(samples)
    for i, j in np.ndindex(3, 5):
        known = samples[:, i, j][~np.isnan(samples[:, i, j])]
        assert result.num_samples[i, j] == len(known)
        if len(known) == 0:
            assert all(np.isnan(values[i, j]) for values in result[:-1])
            continue
        sd = known.std(ddof=1)
        expected = known.mean(), sd, sd / np.sqrt(len(known)), *np.percentile(known, [10, 50, 90])
        np.testing.assert_allclose([values[i, j] for values in result[:-1]], expected, rtol=1e-5)
    along_last = jax.jit(lambda x: summarise_ensemble(x, axis=-1))(np.moveaxis(samples, 0, -1))
    np.testing.assert_allclose(along_last.upper, result.upper, rtol=1e-6)
    single = summarise_ensemble(samples[:1])
    np.testing.assert_array_equal(single.mean, samples[0])
    assert np.all(np.isnan(single.standard_deviation))


def test_sample_variance_of_gaussian_spectra_is_the_exact_one() -> None:
    """A bin of white noise is chi-square of num_modes degrees of freedom, over num_modes."""
    number = 2000
    spectrum = power_spectrum(gaussian_fields(2, np.ones((16, 16)), (number, 1)))
    result = summarise_ensemble(spectrum.power)
    expected = np.sqrt(2 / np.asarray(spectrum.num_modes))
    excess = 12 / np.asarray(spectrum.num_modes)
    error = expected * np.sqrt((2 + excess) / (4 * number))
    assert np.abs((result.standard_deviation[0] - expected) / error).max() < 4
    assert np.abs((result.mean[0] - 1) / result.standard_error[0]).max() < 4


def chi_square_by_loops(sample: np.ndarray, reference: np.ndarray) -> float:
    return float(np.mean(((sample - reference.mean(0)) / reference.std(0, ddof=1)) ** 2))


def test_chi_square_is_that_of_loops(x64: None) -> None:
    generator = np.random.default_rng(3)
    reference, generated = generator.gamma(2.0, size=(6, 4)), generator.gamma(3.0, size=(3, 4))
    result = reduced_chi_square(generated, reference)
    others = [np.delete(reference, i, axis=0) for i in range(6)]
    expected = [chi_square_by_loops(reference[i], others[i]) for i in range(6)]
    np.testing.assert_allclose(result.reference, expected, rtol=1e-10)
    expected = [np.mean([chi_square_by_loops(sample, some) for some in others]) for sample in generated]
    np.testing.assert_allclose(result.generated, expected, rtol=1e-10)
    sd = reference.std(0, ddof=1)
    np.testing.assert_allclose(result.z_scores, (generated - reference.mean(0)) / sd)
    z = (generated.mean(0) - reference.mean(0)) / (sd * np.sqrt(1 / 3 + 1 / 6))
    np.testing.assert_allclose(result.mean_z_scores, z)
    batch = reduced_chi_square(np.stack([generated, generated], 1), np.stack([reference, reference], 1))
    assert batch.generated.shape == (3, 2)
    np.testing.assert_allclose(batch.reference[:, 1], result.reference)
    faint = reduced_chi_square(1e-30 * generated, 1e-30 * reference)
    np.testing.assert_allclose(faint.generated, result.generated)


def test_perfect_generator_has_the_reference_value_and_wrong_ones_have_not() -> None:
    """Few references, so that neither value is near 1: for normal samples it is (1 + 1/m) (m - 1) / (m - 3).

    Here m is the number of the others, n - 1.
    """
    number, bins, trials = 8, 10, 400
    generator = np.random.default_rng(4)
    samples = generator.standard_normal((2, number, trials, bins)).astype(np.float32)
    evaluate = jax.jit(reduced_chi_square)
    result = evaluate(samples[0], samples[1])
    own, other = (np.asarray(values).mean(0) for values in (result.reference, result.generated))
    others = number - 1
    expected = (1 + 1 / others) * (others - 1) / (others - 3)
    assert abs(z_of_mean(own, expected)) < 4
    assert abs(z_of_mean(other, expected)) < 4
    assert abs(z_of_mean(other - own, 0.0)) < 4
    assert z_of_mean(own, 1.0) > 10
    for wrong in (samples[0] + 0.5, 1.3 * samples[0]):
        assert z_of_mean(np.asarray(evaluate(wrong, samples[1]).generated).mean(0) - own, 0.0) > 5
    # Skewed samples, as spectra of few modes are, have another value; the generator's is that one too.
    skewed = evaluate(np.exp(samples[0]), np.exp(samples[1]))
    difference = np.asarray(skewed.generated).mean(0) - np.asarray(skewed.reference).mean(0)
    assert abs(z_of_mean(difference, 0.0)) < 4


def test_z_scores_of_means_are_normal_and_find_the_wrong_bin() -> None:
    power = red_power((32, 32))
    reference = power_spectrum(gaussian_fields(5, power, (300, 1)), num_bins=8).power
    generated = power_spectrum(gaussian_fields(6, power, (200, 1)), num_bins=8).power
    z = np.asarray(reduced_chi_square(generated, reference).mean_z_scores)
    assert np.abs(z).max() < 4
    generated = generated.at[..., 5].multiply(1.1)
    z = np.abs(reduced_chi_square(generated, reference).mean_z_scores[0])
    assert z.argmax() == 5
    assert z.max() > 6


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"samples on axis 0 expected, got shape \(0, 3\)"):
        summarise_ensemble(np.ones((0, 3)))
    with pytest.raises(ValueError, match="axis 2"):
        summarise_ensemble(np.ones((4, 3)), axis=2)
    with pytest.raises(ValueError, match="percentiles"):
        summarise_ensemble(np.ones((4, 3)), percentiles=(90, 10))
    with pytest.raises(ValueError, match="3 or more references"):
        reduced_chi_square(np.ones((4, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(5, 2\)"):
        reduced_chi_square(np.ones((4, 3)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="generated must be finite, got 12 NaN"):
        reduced_chi_square(np.full((4, 3), np.nan), np.ones((5, 3)))
