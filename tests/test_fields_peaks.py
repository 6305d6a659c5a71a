"""Peaks against a maximum filter and their probability in white noise, profiles against loops over peaks and pixels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage

from bayesdiff.fields import PeakProfiles, find_peaks, gaussian_smooth, peak_profiles, pool_peak_profiles
from tests.field_toys import gaussian_fields, red_power

RANGES = ((0.5, 1.5), (1.5, np.inf))


def profile_by_loops(a: np.ndarray, b: np.ndarray, low: float, high: float, edges: list[float]) -> np.ndarray:
    """Mean of all pixels of b within each annulus of any peak of a, one peak and one pixel at a time."""
    height, width = a.shape
    values: list[list[float]] = [[] for _ in edges[1:]]
    for y, x in np.argwhere(ndimage.maximum_filter(a, size=3, mode="wrap") == a):
        if not low <= a[y, x] / a.std() < high:
            continue
        for i, j in np.ndindex(a.shape):
            dy, dx = abs(i - y), abs(j - x)
            distance = np.hypot(min(dy, height - dy), min(dx, width - dx))
            annulus = np.searchsorted(edges, distance, side="right") - 1
            if annulus < len(values):
                values[annulus].append(b[i, j])
    return np.array([np.mean(annulus) for annulus in values])


@pytest.mark.parametrize("shape", [(32, 32), (15, 20)])
def test_peaks_are_those_of_a_maximum_filter(shape: tuple[int, int]) -> None:
    fields = np.random.default_rng(1).standard_normal((2, 3, *shape)).astype(np.float32)
    expected = ndimage.maximum_filter(fields, size=(1, 1, 3, 3), mode="wrap") == fields
    np.testing.assert_array_equal(find_peaks(fields), expected)
    assert not find_peaks(np.zeros(shape)).any()
    assert not find_peaks(np.round(fields) > 5).any()


def test_one_pixel_in_nine_of_white_noise_is_a_peak() -> None:
    """The highest of nine independent pixels is each of them with the same probability."""
    fields = np.random.default_rng(2).standard_normal((200, 1, 32, 32))
    fractions = np.asarray(find_peaks(fields)).mean(axis=(1, 2, 3))
    error = fractions.std() / np.sqrt(len(fractions))
    assert abs(fractions.mean() - 1 / 9) < 4 * error
    assert error < 1e-3


def test_auto_and_cross_profiles_are_those_of_loops(x64: None) -> None:
    edges = [0.0, 0.5, 1.2, 2.5, 5.0]
    a, b = gaussian_fields(3, red_power((18, 24), slope=-2.0), (2,))
    result = peak_profiles(a[None], np.stack([a, b]), RANGES, radial_edges=edges)
    assert result.profile.shape == (2, 2, 4)
    np.testing.assert_allclose(result.radii[:2], [0, 1])
    for channel, field in enumerate((a, b)):
        for index, (low, high) in enumerate(RANGES):
            assert result.count[channel, index] > 3
            expected = profile_by_loops(a, field, low, high, edges)
            np.testing.assert_allclose(result.profile[channel, index], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(peak_profiles(a[None], None, RANGES, radial_edges=edges).profile[0], result.profile[0])
    # The innermost annulus is the peak itself, whose value the range bounds.
    assert RANGES[0][0] <= result.profile[0, 0, 0] / a.std() < RANGES[0][1]


def test_isolated_sources_across_the_border_give_back_their_shape() -> None:
    impulses = np.zeros((1, 64, 64), np.float32)
    impulses[0, [0, 30, 63], [63, 20, 31]] = [1.0, 1.0, 3.0]
    sigma = 2.5
    sources = np.asarray(gaussian_smooth(impulses, sigma)) * 2 * np.pi * sigma**2
    result = peak_profiles(sources, ranges=((0.5, 2.0), (2.0, np.inf), (9.0, 10.0)), noise=1.0, pixel_arcmin=2.0)
    np.testing.assert_array_equal(result.count[0], [2, 1, 0])
    np.testing.assert_allclose(result.radii[:2], [0.0, 2 * (4 + 4 * np.sqrt(2)) / 8], rtol=1e-6)
    shape = np.exp(-0.5 * (np.asarray(result.radii) / (2 * sigma)) ** 2)
    # Within an annulus the shape is curved, so its mean is not quite its value at the mean radius.
    np.testing.assert_allclose(result.profile[0, 0], shape, atol=0.015)
    np.testing.assert_allclose(result.profile[0, 1], 3 * shape, atol=0.045)
    assert np.all(np.isnan(result.profile[0, 2]))


def test_pooled_maps_are_stacked_peak_by_peak() -> None:
    fields = gaussian_fields(4, red_power((24, 24), slope=-2.0), (5, 2)).astype(np.float32)
    ranges = ((0.5, 1.5), (3.2, np.inf), (50.0, 60.0))
    single = peak_profiles(fields, ranges=ranges, noise=fields.std())
    assert set(np.unique(single.count[:, :, 1])) >= {0, 1}
    pooled = pool_peak_profiles(single)
    np.testing.assert_array_equal(pooled.count, np.asarray(single.count).sum(0))
    weights = np.asarray(single.count)[..., None]
    expected = np.nansum(weights * np.asarray(single.profile), axis=0)[:, :2] / weights.sum(0)[:, :2]
    np.testing.assert_allclose(pooled.profile[:, :2], expected, rtol=1e-5)
    assert np.all(np.isnan(pooled.profile[:, 2]))
    assert np.all(pooled.count[:, 2] == 0)
    with pytest.raises(ValueError, match="one before those of the channels"):
        pool_peak_profiles(pooled)


def test_batches_jit_and_gradient(x64: None) -> None:
    fields = gaussian_fields(5, red_power((16, 20), slope=-2.0), (2, 3))

    def of_first_channel(maps: jax.Array) -> PeakProfiles:
        return peak_profiles(maps[:, :1], maps, RANGES)

    together = jax.jit(of_first_channel)(fields)
    assert together.profile.shape == (2, 3, 2, 5)
    assert together.count.shape == (2, 3, 2)
    one = peak_profiles(fields[1, 0], fields[1, 2], RANGES)
    np.testing.assert_allclose(together.profile[1, 2], one.profile, rtol=1e-9)
    a, b = jnp.asarray(fields[0, 0]), jnp.asarray(fields[0, 1])
    check_grads(lambda x: peak_profiles(a, x, RANGES).profile, (b,), order=1, modes=["rev"])


def test_bad_input_is_refused() -> None:
    field = np.random.default_rng(6).standard_normal((1, 16, 16))
    with pytest.raises(ValueError, match="low < high"):
        peak_profiles(field, ranges=((3, 3),))
    with pytest.raises(ValueError, match="pairs"):
        peak_profiles(field, ranges=(3, 5))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="noise must lie in"):
        peak_profiles(field, noise=0.0)
    with pytest.raises(ValueError, match="holds no pixel of a 16 x 16 map"):
        peak_profiles(field, radial_edges=[0, 1, 20, 30])
    with pytest.raises(ValueError, match="of one size expected"):
        peak_profiles(field, np.ones((1, 8, 8)))
    field[0, 2, 3] = np.inf
    with pytest.raises(ValueError, match=r"peak_field must be finite, got 1 NaN .* \(0, 2, 3\)"):
        peak_profiles(field)
