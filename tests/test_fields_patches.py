"""Nearest patches against an exhaustive search, and regridding against integrals that are known."""

from __future__ import annotations

import numpy as np
import pytest

from bayesdiff.fields import nearest_patch_distance, regrid


def exhaustive(field: np.ndarray, references: np.ndarray) -> float:
    height, width = field.shape[-2:]
    return min(
        float(np.sqrt(np.mean((field - np.roll(reference, (i, j), axis=(-2, -1))) ** 2)))
        for reference in references
        for i in range(height)
        for j in range(width)
    )


@pytest.mark.parametrize("max_bytes", [2**28, 2**11])
def test_distance_is_that_of_an_exhaustive_search(max_bytes: int) -> None:
    generator = np.random.default_rng(1)
    fields = generator.standard_normal((2, 3, 2, 6, 9)) + 4.0
    references = generator.standard_normal((5, 2, 6, 9)) + 4.0
    distances = nearest_patch_distance(fields, references, max_bytes=max_bytes)
    assert distances.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert distances[index] == pytest.approx(exhaustive(fields[index], references), rel=1e-4)


def test_a_shifted_copy_is_found_and_a_new_patch_is_not() -> None:
    generator = np.random.default_rng(2)
    references = generator.standard_normal((20, 1, 32, 32))
    copy = np.roll(references[13], (5, -9), axis=(-2, -1)) + 0.1 * generator.standard_normal((1, 32, 32))
    new = generator.standard_normal((1, 32, 32))
    near, far = nearest_patch_distance(np.stack([copy, new]), references)
    assert near == pytest.approx(0.1, rel=0.1)
    assert 1.2 < far < np.sqrt(2)


def test_patches_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="of one size expected"):
        nearest_patch_distance(np.zeros((1, 8, 8)), np.zeros((3, 1, 8, 9)))
    with pytest.raises(ValueError, match="of one size expected"):
        nearest_patch_distance(np.zeros((1, 8, 8)), np.zeros((0, 1, 8, 8)))


def test_integer_factor_is_the_block_mean() -> None:
    field = np.random.default_rng(3).standard_normal((2, 12, 8)).astype(np.float32)
    blocks = field.reshape(2, 3, 4, 2, 4).mean(axis=(2, 4))
    result = regrid(field, 4)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, blocks, atol=1e-6)
    np.testing.assert_allclose(regrid(field, shape=(3, 2)), blocks, atol=1e-6)
    np.testing.assert_allclose(regrid(field, (4, 8)), blocks.mean(-1, keepdims=True), atol=1e-6)


def test_area_weights_agree_with_subdivided_pixels() -> None:
    """A factor of 8/3 is a factor of 8 on a map whose pixels are divided in three."""
    field = np.random.default_rng(4).standard_normal((24, 32))
    divided = np.kron(field, np.ones((3, 3)))
    np.testing.assert_allclose(regrid(field, 8 / 3), regrid(divided, 8), atol=1e-12)
    assert regrid(field, shape=(7, 12)).mean() == pytest.approx(field.mean())


def test_planck_pixels_to_eight_arcmin() -> None:
    """A ramp is averaged as its exact integral says, and the cut is the same at both ends."""
    ramp = np.arange(500.0)
    factor = 8 / 2.37
    result = regrid(np.broadcast_to(ramp, (500, 500)), factor)
    assert result.shape == (148, 148)
    ends = (500 - 148 * factor) / 2 + factor * np.arange(149)
    integral = np.interp(ends, np.arange(501), np.append(0.0, np.cumsum(ramp)))
    np.testing.assert_allclose(result, np.broadcast_to(np.diff(integral) / factor, (148, 148)))
    assert result.mean() == pytest.approx(ramp.mean())


def test_bad_maps_and_grids_are_refused() -> None:
    field = np.ones((8, 8))
    with pytest.raises(ValueError, match="not both"):
        regrid(field)
    with pytest.raises(ValueError, match="not both"):
        regrid(field, 2, shape=(4, 4))
    with pytest.raises(ValueError, match="got 0.5 x 0.5"):
        regrid(field, 0.5)
    with pytest.raises(ValueError, match="whole map"):
        regrid(field, 9)
    field[2, 5] = np.nan
    field[3, 0] = np.inf
    with pytest.raises(ValueError, match=r"2 NaN or infinite pixels, the first at \(2, 5\)"):
        regrid(field, 2)
