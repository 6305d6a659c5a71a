"""The two arrays that every check starts from, and where its random numbers come from.

``truth`` has shape (simulation, ...) and ``draws`` (simulation, draw, ...): for each simulated data set the parameters
that made it, and draws of the posterior that is on trial. A NaN is refused: a failed simulation is a finding, which
the caller has to count, and not a value that a statistic may swallow.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

# An integer, a JAX key as everywhere in the project, or a generator to draw on.
Key = int | jax.Array | np.random.Generator


def generator(key: Key) -> np.random.Generator:
    """The random numbers of a key; the same integer or JAX key gives the same numbers."""
    if isinstance(key, np.random.Generator):
        return key
    if isinstance(key, int | np.integer):
        return np.random.default_rng(int(key))
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def matched(truth: ArrayLike, draws: ArrayLike, smallest: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Truth (simulation, ...) and draws (simulation, draw, ...) as arrays that fit.

    Raises:
        ValueError: if the shapes do not fit, there are fewer draws than ``smallest``, or a value is NaN.
    """
    truth, draws = np.asarray(truth), np.asarray(draws)
    refuse_unmatched(truth.shape, draws.shape, smallest)
    refuse_nan("truth", truth)
    refuse_nan("draws", draws)
    return truth, draws


def refuse_unmatched(truth: tuple[int, ...], draws: tuple[int, ...], smallest: int = 1) -> None:
    """Raise ValueError unless the shapes are (simulation, ...) and (simulation, draw, ...)."""
    fit = len(truth) >= 1 and len(draws) == len(truth) + 1 and draws[:1] == truth[:1] and draws[2:] == truth[1:]
    if not fit or 0 in truth[:1]:
        raise ValueError(f"truth (simulation, ...) and draws (simulation, draw, ...) expected, got {truth} and {draws}")
    if draws[1] < smallest:
        raise ValueError(f"at least {smallest} draws of each simulation expected, got {draws[1]}")


def refuse_nan(name: str, array: np.ndarray) -> None:
    """Raise ValueError when an array (simulation, ...) holds NaN, saying in which simulations."""
    bad = np.isnan(array)
    if bad.any():
        failed = np.flatnonzero(bad.reshape(bad.shape[0], -1).any(axis=1))
        some = ", ".join(map(str, failed[:5])) + (", ..." if failed.size > 5 else "")
        raise ValueError(
            f"{name} must not be NaN, got {int(bad.sum())} NaN in {failed.size} of {bad.shape[0]} simulations ({some})"
        )


def checked_levels(levels: ArrayLike) -> np.ndarray:
    """Coverage levels (level,), increasing and between 0 and 1.

    Raises:
        ValueError: if they are not.
    """
    levels = np.asarray(levels, dtype=float)
    inside = levels.ndim == 1 and levels.size > 0 and bool(np.all((levels > 0) & (levels < 1)))
    if not inside or np.any(np.diff(levels) <= 0):
        raise ValueError(f"levels must be one or more increasing numbers between 0 and 1, got {levels}")
    return levels


def checked_names(names: Sequence[str] | None, number: int) -> tuple[str, ...]:
    """The names of ``number`` quantities, or "0", "1", ... where none are given.

    Raises:
        ValueError: if there are more or fewer names than quantities.
    """
    names = tuple(map(str, range(number))) if names is None else tuple(names)
    if len(names) != number:
        raise ValueError(f"{number} quantities have as many names, got {len(names)}: {', '.join(names)}")
    return names
