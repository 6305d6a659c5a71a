"""The check of the flat-sky approximation, and the check of that check."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bayesdiff.cosmology import cmb_power, simulate_gaussian
from bayesdiff.cosmology.curved_sky import curved_sky_check, sine_window, windowed_flat_power


def test_windowed_power_is_that_of_simulated_cuts():
    size, num = 16, 2000
    power = np.asarray(cmb_power(67.4, 0.0224, (4 * size, 4 * size), 8.0, 16.0), float)
    fields = np.asarray(simulate_gaussian(jax.random.key(0), power, (num, *power.shape)))
    window = sine_window(size)
    drawn = np.abs(np.fft.fft2(fields[:, :size, :size] * window, norm="ortho")) ** 2
    expected = windowed_flat_power(power, window)
    assert np.abs(drawn.mean(0) / expected - 1).max() < 5 * np.sqrt(2 / num)


def test_window_has_unit_mean_square():
    np.testing.assert_allclose(np.mean(sine_window(64) ** 2), 1.0)


def test_flat_sky_agrees_with_the_curved_sky():
    pytest.importorskip("pixell")
    table = curved_sky_check(num=84, num_bins=6)
    deviation = np.abs(table["ratio"] - 1)
    # The check has power: the scatter of the patches is small enough to see a few per cent above the first bin.
    assert table["standard_error"][1:].max() < 0.03
    assert (deviation < 0.01 + 4 * table["standard_error"]).all()


def test_pixels_must_tile_the_sphere():
    pytest.importorskip("pixell")
    with pytest.raises(ValueError, match="must divide 180 degrees"):
        curved_sky_check(num=1, pixel_arcmin=7.01)
