"""Posteriors that are exact, and posteriors that are wrong by a known amount."""

from __future__ import annotations

import numpy as np


def normal_posterior(
    rng: np.random.Generator,
    num_simulations: int,
    num_draws: int,
    shape: tuple[int, ...] = (),
    width: float = 1.0,
    shift: float = 0.0,
    noise: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, draws and data of theta ~ N(0, 1), y ~ N(theta, noise^2), independently for each element of ``shape``.

    The draws' standard deviation is ``width`` times that of the posterior and their mean is off by ``shift`` of it.
    """
    truth = rng.standard_normal((num_simulations, *shape))
    data = truth + noise * rng.standard_normal(truth.shape)
    sd = noise / np.sqrt(1 + noise**2)
    mean = data / (1 + noise**2)
    white = rng.standard_normal((num_simulations, num_draws, *shape))
    return truth, mean[:, None] + sd * (shift + width * white), data
