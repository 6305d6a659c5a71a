"""Minkowski functionals of random maps against programs that trace contours and count pixels.

These know nothing of derivatives: contourpy (of matplotlib) and scikit-image draw the contours of the sampled surface,
and the Euler characteristic is that of pixels as points, joined to their neighbours. They see the same maps on a grid
three times as fine, since chords are shorter than the curves they cut. A functional measured at the pixels within a
window scatters about the one of the contours, so differences of the same map are averaged over maps.
"""

from __future__ import annotations

from collections.abc import Callable

import contourpy
import numpy as np
import pytest
from skimage import measure

from bayesdiff.fields import minkowski_functionals, wavenumbers
from tests.field_toys import gaussian_fields

SIZE, NUMBER, FINER = 128, 16, 3
WINDOW = 0.3
THRESHOLDS = np.array([-1.0, 0.5, 1.5])
# Levels at the middle of three equal parts of each window.
LEVELS = THRESHOLDS[:, None] + WINDOW * (np.arange(3) - 1) / 3


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    """Gaussian and log-normal maps (map, kind, row, column), well resolved, of unit variance."""
    power = np.exp(-0.5 * (wavenumbers((SIZE, SIZE)) / 4) ** 2)
    fields = gaussian_fields(1, power, (NUMBER, 2)) / np.sqrt(power.mean())
    fields[:, 1] = np.exp(0.6 * fields[:, 1])
    fields[:, 1] = (fields[:, 1] - fields[:, 1].mean()) / fields[:, 1].std()
    return fields


def refined(maps: np.ndarray) -> np.ndarray:
    """The same band-limited functions on a finer grid, with the first row and column again at the end."""
    fine = FINER * SIZE
    modes = np.fft.fftshift(np.fft.fft2(maps), axes=(-2, -1))
    padding = (fine - SIZE) // 2
    modes = np.pad(modes, [*[(0, 0)] * (maps.ndim - 2), (padding, padding), (padding, padding)])
    fields = np.fft.ifft2(np.fft.ifftshift(modes, axes=(-2, -1))).real * FINER**2
    return np.pad(fields, [*[(0, 0)] * (maps.ndim - 2), (0, 1), (0, 1)], mode="wrap")


def length(lines: list[np.ndarray]) -> float:
    return float(sum(np.hypot(*np.diff(line, axis=0).T).sum() for line in lines))


def euler_characteristic(inside: np.ndarray) -> int:
    """Points minus edges plus faces of the pixels inside, on the periodic map."""
    below, right = np.roll(inside, -1, axis=0), np.roll(inside, -1, axis=1)
    edges = np.count_nonzero(inside & below) + np.count_nonzero(inside & right)
    return int(np.count_nonzero(inside) - edges + np.count_nonzero(inside & below & right & np.roll(below, -1, axis=1)))


def over_windows(maps: np.ndarray, measure: Callable[[np.ndarray, float], float]) -> np.ndarray:
    """Measure of each refined map averaged over the levels of each window, (map, kind, threshold)."""
    fields = refined(maps.reshape(-1, SIZE, SIZE))
    each = [[np.mean([measure(field, level) for level in levels]) for levels in LEVELS] for field in fields]
    return np.reshape(each, (*maps.shape[:2], -1))


def assert_agree(measured, counted: np.ndarray) -> None:
    """No difference beyond four standard errors and half a per cent, the error itself being a few per cent at most."""
    difference = np.asarray(measured) - counted
    error = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
    scale = np.abs(counted).mean(axis=0)
    assert np.all(np.abs(difference.mean(axis=0)) < 4 * error + 0.005 * scale)
    assert np.all(error < 0.03 * scale)


def test_area_and_contour_length_are_those_of_contourpy(x64: None, maps: np.ndarray) -> None:
    result = minkowski_functionals(maps, THRESHOLDS, window=WINDOW)
    np.testing.assert_array_equal(result.v0, np.mean(maps[..., None] > THRESHOLDS, axis=(2, 3)))
    lengths = over_windows(maps, lambda field, level: length(contourpy.contour_generator(z=field).lines(level)))
    assert_agree(4 * SIZE**2 * FINER * result.v1, lengths)


def test_euler_characteristic_is_that_of_counted_pixels(x64: None, maps: np.ndarray) -> None:
    result = minkowski_functionals(maps, THRESHOLDS, window=WINDOW)
    counts = over_windows(maps, lambda field, level: euler_characteristic(field[:-1, :-1] > level))
    assert_agree(SIZE**2 * result.v2, counts)


def test_scikit_image_agrees(x64: None, maps: np.ndarray) -> None:
    def euler(field: np.ndarray, level: float) -> float:
        """Of the closed map, less what its last row and column count again."""
        inside = field > level
        again = measure.euler_number(inside[:1], 1) + measure.euler_number(inside[:, :1], 1)
        return float(measure.euler_number(inside, 1) - again + int(inside[0, 0]))

    some = maps[:8]
    result = minkowski_functionals(some, THRESHOLDS, window=WINDOW)
    lengths = over_windows(some, lambda field, level: length(measure.find_contours(field, level)))
    assert_agree(4 * SIZE**2 * FINER * result.v1, lengths)
    assert_agree(SIZE**2 * result.v2, over_windows(some, euler))
