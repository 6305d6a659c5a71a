"""Matched Gaussian fields: the given spectra in every bin, no higher cumulant, and degenerate channels."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bayesdiff.fields import (
    collapsed_bispectrum,
    collapsed_trispectrum,
    cross_correlation,
    matched_gaussian,
    spectral_matrix,
    wavenumbers,
)
from tests.field_toys import gaussian_fields, red_power, z_of_mean

SHAPE = (16, 20)
ALL_MODES = np.arange(0.5, wavenumbers(SHAPE).max() + 1)


def non_gaussian_fields(seed: int, number: int) -> np.ndarray:
    """Two correlated channels of very different units, each log-normal, with means."""
    a, b = gaussian_fields(seed, red_power(SHAPE, slope=-2.0), (2, number))
    return np.stack([np.exp(a) + 2.0, -1e-4 * np.exp(0.7 * a + 0.5 * b)], axis=1).astype(np.float32)


def test_auto_and_cross_spectra_are_matched_in_every_bin() -> None:
    given = non_gaussian_fields(1, 20)
    draws = matched_gaussian(jax.random.key(1), given, num_draws=2000)
    assert draws.shape == (2000, 2, *SHAPE)
    assert draws.dtype == np.float32
    target = np.asarray(spectral_matrix(given, edges=ALL_MODES).power, float).mean(0)
    measured = spectral_matrix(draws, edges=ALL_MODES).power
    z = z_of_mean(measured, target)
    assert np.abs(z).max() < 4.5
    assert z.std() < 1.5
    # The check has power: a twentieth more power would be seen.
    assert np.abs(z_of_mean(measured, 1.05 * target)).max() > 5
    correlation = np.asarray(cross_correlation(draws[:, 0], draws[:, 1], num_bins=6).coefficient)
    assert np.all(correlation.mean(0) < -0.5)
    means = given.mean(axis=(-2, -1), dtype=float)
    assert np.abs(z_of_mean(np.asarray(draws, float).mean(axis=(-2, -1)), means.mean(0))).max() < 4
    spread = np.asarray(draws, float).mean(axis=(-2, -1)) - means.mean(0)
    assert np.abs(z_of_mean(spread[:, :, None] * spread[:, None], np.cov(means.T, bias=True))).max() < 4


def test_nothing_but_the_spectra_is_kept() -> None:
    given = non_gaussian_fields(2, 50)
    draws = matched_gaussian(jax.random.key(2), given, num_draws=1500)
    a, b = draws[:, :1], draws[:, 1:]
    edges = (1.0, 3.0, 8.0)
    assert np.abs(z_of_mean(collapsed_bispectrum(a, a, b, edges=edges).coefficient, 0.0)).max() < 4
    assert np.abs(z_of_mean(collapsed_trispectrum(a, a, b, b, edges=edges).cumulant, 0.0)).max() < 4
    assert z_of_mean(collapsed_trispectrum(given[:, :1], edges=edges).coefficient[:, 0, 1], 0.0) > 5


def test_spectral_matrix_is_that_of_the_pairs(x64: None) -> None:
    fields = np.random.default_rng(3).standard_normal((4, 3, *SHAPE))
    result = spectral_matrix(fields, num_bins=5)
    assert result.power.shape == (4, 3, 3, 5)
    modes = np.fft.fft2(fields, norm="ortho")
    edges = np.linspace(0.5, 10.5, 6)
    inside = (wavenumbers(SHAPE) >= edges[2]) & (wavenumbers(SHAPE) < edges[3])
    expected = np.einsum("nip,njp->nij", modes[..., inside].conj(), modes[..., inside]).real / inside.sum()
    np.testing.assert_allclose(result.power[..., 2], expected, rtol=1e-10)


def test_copies_of_a_channel_and_maps_of_one_sample() -> None:
    one = gaussian_fields(4, red_power(SHAPE), (1,)).astype(np.float32)
    copies = np.concatenate([one, -2 * one, 0 * one])
    draws = np.asarray(matched_gaussian(jax.random.key(3), copies, num_draws=3))
    np.testing.assert_allclose(draws[:, 1], -2 * draws[:, 0], atol=1e-3 * np.abs(draws).max())
    np.testing.assert_array_equal(draws[:, 2], 0.0)
    again = matched_gaussian(jax.random.key(3), copies, num_draws=3)
    np.testing.assert_array_equal(draws, again)
    # One map has no scatter of its mean, and bins that leave modes out leave them empty.
    coarse = matched_gaussian(jax.random.key(4), one + 5.0, num_draws=2, edges=[1.0, 4.0])
    np.testing.assert_allclose(np.asarray(coarse).mean(axis=(-2, -1)), (one + 5.0).mean(), rtol=1e-5)
    modes = np.abs(np.fft.fft2(np.asarray(coarse)))
    assert modes[..., wavenumbers(SHAPE) >= 4].max() < 1e-4 * modes.max()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(..., channels, height, width\), got \(8, 8\)"):
        matched_gaussian(jax.random.key(0), np.ones((8, 8)))
    with pytest.raises(ValueError, match="num_draws must be 1 or more, got 0"):
        matched_gaussian(jax.random.key(0), np.ones((1, 8, 8)), num_draws=0)
    with pytest.raises(ValueError, match="128 NaN or infinite values"):
        spectral_matrix(np.full((2, 8, 8), np.nan))
