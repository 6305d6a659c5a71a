"""Gaussian fields with power A (k / 8)^-n on 64 x 64 pixels, k in units of the fundamental mode.

The pivot lies at the middle of the modes in log k, where amplitude and index hardly know of each other. The mode k = 0
has the power of k = 1. Fields have no unit.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.diffusion.gaussian_family import GaussianFamily

SIZE, PIVOT = 64, 8.0
PARAMETER_BOUNDS = {"log_A": (-1.0, 1.0), "n": (1.5, 3.5)}
NUM_TRAINING, NUM_HELD_OUT = 8192, 200


def exact_family(size: int = SIZE) -> GaussianFamily:
    """The fields in closed form: log P = log_A - n log(k / 8) is linear in log k and in both parameters.

    The hats of a family are linear in log k between the fundamental and the corner, so that two of them are enough.
    """
    low, high = (np.array(ends) for ends in zip(*PARAMETER_BOUNDS.values(), strict=True))
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    k = np.array([1.0, 1.0, np.hypot(0.5, 0.5) * size])
    constant = middle[0] - middle[1] * np.log(k / PIVOT)
    # Terms in the order of a family: constant, then the second parameter, then the first.
    log_power = np.stack([constant, -half[1] * np.log(k / PIVOT), np.full(3, half[0])], axis=1)
    arrays = (jnp.asarray(x, dtype=float) for x in (log_power, np.zeros(3), low, high))
    return GaussianFamily(*arrays, shape=(size, size), degree=1)


def exact_prior(size: int = SIZE) -> bd.DiffusionModel:
    """The diffusion model of the closed form."""
    return make_diffusion(exact_family(size), size)


def make_diffusion(denoiser, size: int = SIZE, **card) -> bd.DiffusionModel:
    """A conditional diffusion of these fields in white noise, around any denoiser of theirs."""
    from bayesdiff.diffusion.model import Card

    return bd.DiffusionModel(
        denoiser=denoiser,
        schedule=bd.schedules.Cosine(log_snr_max=12.0),
        noise=bd.WhiteNoise(),
        event_shape=(1, size, size),
        context_names=tuple(PARAMETER_BOUNDS),
        context_bounds=tuple(PARAMETER_BOUNDS.values()),
        card=Card(card),
    )


def simulate(seed: int, num: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Fields (num, 1, size, size) in float32 and their parameters (num, 2), uniform in the box."""
    rng = np.random.default_rng(seed)
    low, high = zip(*PARAMETER_BOUNDS.values(), strict=True)
    parameters = rng.uniform(low, high, (num, 2))
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(size, 1.0 / size), np.fft.fftfreq(size, 1.0 / size)))
    log_k = np.log(np.maximum(k, 1.0) / PIVOT)
    fields = np.empty((num, 1, size, size), np.float32)
    for field, (log_amplitude, index) in zip(fields, parameters, strict=True):
        modes = np.fft.fft2(rng.normal(size=(size, size))) * np.exp(0.5 * (log_amplitude - index * log_k))
        field[0] = np.fft.ifft2(modes).real
    return fields, parameters
