"""Amplitude and offset of windows of dust: ordinary parameters beside a prior of standardised windows.

    x = m + a w,    log a ~ N(mu, tau^2),    m | a ~ N(alpha + beta a, (gamma a)^2),

w of mean 0 and standard deviation 1. A learned prior of x has to know its amplitude from thousands of modes, each of
which it knows with a small error, and these add up: a factor on x is not to be inferred with it. With the amplitude a
site of its own the factor is one of two that multiply w, and the data tell their product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from models.denoising.data import Maps

NUM_WINDOWS = 4096


class WindowScale(NamedTuple):
    """Distribution of the amplitude (standard deviation) and the offset (mean) of a window.

    Attributes:
        log_mean: mean of the logarithm of the amplitude.
        log_sd: its standard deviation.
        constant: offset at amplitude 0.
        slope: of the mean offset with the amplitude.
        scatter: standard deviation of the offset about that, over the amplitude.
    """

    log_mean: float
    log_sd: float
    constant: float
    slope: float
    scatter: float

    def sample(self) -> tuple[Any, Any]:
        """NumPyro sites ``amplitude`` and ``offset``."""
        amplitude = numpyro.sample("amplitude", dist.LogNormal(self.log_mean, self.log_sd))
        # In units of the amplitude, so that the two are independent before the data.
        relative = numpyro.sample("relative_offset", dist.Normal(0.0, 1.0))
        mean = self.constant + self.slope * amplitude
        return amplitude, numpyro.deterministic("offset", mean + self.scatter * amplitude * relative)


def fit_window_scale(maps: Maps, num: int = NUM_WINDOWS, seed: int = 5) -> WindowScale:
    """The distribution over ``num`` random windows of the training maps."""
    windows = np.asarray(jax.vmap(maps.windows().draw)(jax.random.split(jax.random.key(seed), num)), dtype=np.float64)
    amplitude, offset = windows.std(axis=(1, 2, 3)), windows.mean(axis=(1, 2, 3))
    # Weighted by 1 / a^2, the precision of the offset.
    design = np.stack([1.0 / amplitude, np.ones(num)], axis=1)
    (constant, slope), *_ = np.linalg.lstsq(design, offset / amplitude, rcond=None)
    scatter = np.std(offset / amplitude - design @ (constant, slope))
    log = np.log(amplitude)
    return WindowScale(*(float(x) for x in (log.mean(), log.std(), constant, slope, scatter)))


def window_scale(entries: Mapping[str, Any]) -> WindowScale | None:
    """The distribution that the card of a prior of standardised windows holds, or None for another prior's card.

    Raises:
        ValueError: the card holds something else by that name.
    """
    found = entries.get("window_scale")
    if found is None:
        return None
    if not isinstance(found, Mapping) or set(found) != set(WindowScale._fields):
        got = ", ".join(found) if isinstance(found, Mapping) else repr(found)
        raise ValueError(f"window_scale of the card must hold {', '.join(WindowScale._fields)}, got {got}")
    return WindowScale(**found)


def standardised(fields: Any) -> np.ndarray:
    """Fields (num, 1, H, W) brought to mean 0 and standard deviation 1 one by one."""
    fields = jnp.asarray(fields)
    axes = (-3, -2, -1)
    centred = fields - jnp.mean(fields, axis=axes, keepdims=True)
    return np.asarray(centred / jnp.std(centred, axis=axes, keepdims=True))
