"""Gaussian smoothing of periodic fields."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.diffusion.refusals import refuse_outside
from bayesdiff.fields.inputs import field_array


def gaussian_smooth(field: ArrayLike, sigma: ArrayLike, pixel_arcmin: float | None = None) -> jax.Array:
    """Convolve a periodic field with a normalised Gaussian, as the transfer function exp(-k^2 sigma^2 / 2).

    Args:
        field: (..., channels, height, width).
        sigma: standard deviation of the Gaussian in pixels, or [arcmin] if the pixel size is given; a beam of full
            width at half maximum w has sigma = w / sqrt(8 ln 2). Differentiable.
        pixel_arcmin: pixel size [arcmin].

    Returns:
        The smoothed field, of the field's shape and mean.

    Raises:
        ValueError: if the field has fewer than two axes or NaN pixels, or sigma is negative.
    """
    field = field_array(field)
    refuse_outside("sigma", sigma, 0.0, np.inf, "width of the smoothing")
    height, width = field.shape[-2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    exponent = jnp.asarray(-0.5 * (2 * np.pi * frequency / (pixel_arcmin or 1.0)) ** 2, field.dtype)
    transfer = jnp.exp(exponent * jnp.asarray(sigma, field.dtype) ** 2)
    return jnp.fft.irfft2(jnp.fft.rfft2(field) * transfer, s=(height, width))
