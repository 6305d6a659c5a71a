"""Convergence and shear: a plane wave, the adjoint, the inverse, the mean, a round lens."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bayesdiff.cosmology import convergence_to_shear, shear_to_convergence

SHAPE = (12, 16)


def wave(row: int, column: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.cos(2 * np.pi * (row * y / shape[0] + column * x / shape[1]) + 0.4)[None]


@pytest.mark.parametrize(("row", "column"), [(0, 3), (2, 0), (2, 3), (-1, 4)])
def test_plane_wave(x64, row, column):
    """A wave at angle phi to the columns' direction has gamma = exp(2 i phi) kappa."""
    angle = 2.0 * np.arctan2(row / SHAPE[0], column / SHAPE[1])
    shear = convergence_to_shear(wave(row, column))
    np.testing.assert_allclose(shear[0], np.cos(angle) * wave(row, column)[0], atol=1e-12)
    np.testing.assert_allclose(shear[1], np.sin(angle) * wave(row, column)[0], atol=1e-12)
    modes = shear_to_convergence(shear)
    np.testing.assert_allclose(modes[0], wave(row, column)[0], atol=1e-12)
    np.testing.assert_allclose(modes[1], 0.0, atol=1e-12)


def test_e_mode_is_the_adjoint(x64):
    rng = np.random.default_rng(0)
    kappa, shear = rng.normal(size=(3, 1, *SHAPE)), rng.normal(size=(3, 2, *SHAPE))
    forward = np.sum(convergence_to_shear(kappa) * shear, axis=(1, 2, 3))
    backward = np.sum(kappa[:, 0] * shear_to_convergence(shear)[:, 0], axis=(1, 2))
    np.testing.assert_allclose(forward, backward, rtol=1e-12)


def test_inverse_but_for_the_mean(x64):
    # Odd sides have no Nyquist frequency.
    kappa = np.random.default_rng(1).normal(size=(1, 9, 15)) + 5.0
    modes = shear_to_convergence(convergence_to_shear(kappa))
    np.testing.assert_allclose(modes[0], kappa[0] - kappa.mean(), atol=1e-12)
    np.testing.assert_allclose(convergence_to_shear(np.full((1, *SHAPE), 0.3)), 0.0, atol=1e-15)


def test_mass_shears_tangentially():
    y, x = np.mgrid[:33, :33] - 16
    shear = np.asarray(convergence_to_shear(np.exp(-(x**2 + y**2) / 8.0)[None].astype(np.float32)))
    assert shear[0, 16, 22] < -0.01  # beside the mass an image is stretched along the rows' direction
    assert shear[0, 22, 16] > 0.01
    assert shear[1, 21, 21] < -0.01
    assert shear.dtype == np.float32


def test_batches_and_traces_and_refusals():
    kappa = np.random.default_rng(2).normal(size=(2, 3, 1, *SHAPE)).astype(np.float32)
    shear = jax.jit(convergence_to_shear)(kappa)
    assert shear.shape == (2, 3, 2, *SHAPE)
    np.testing.assert_allclose(shear[1, 2], convergence_to_shear(kappa[1, 2]), atol=1e-6)
    with pytest.raises(ValueError, match=r"convergence must have shape \(..., 1, height, width\), got \(2, 12, 16\)"):
        convergence_to_shear(np.zeros((2, *SHAPE)))
    with pytest.raises(ValueError, match="shear must have shape"):
        shear_to_convergence(np.zeros(SHAPE))
