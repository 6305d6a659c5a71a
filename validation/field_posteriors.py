"""Posteriors of two parameters over many fields of known truth, by several estimators, and how they are judged.

Every posterior is kept on disk as its mean, standard deviation and the rank of the truth, so that a study that is
interrupted continues.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import binom

import bayesdiff as bd
from validation.chains import Runner
from validation.figures import Figure, between

LEVELS = (0.68, 0.95)
SURROGATE: dict[str, Any] = {"num_design": 12, "num_test": 10, "min_bulk": 8, "steps_per_draw": 2}
"""Settings of ``MarginalSurrogate`` for many fields of two parameters: a plane needs fewer points than the default."""
SURROGATE_OF_ONE: dict[str, Any] = SURROGATE | {"num_design": 8, "min_bulk": 3}
"""The same for one parameter: 3 points in the bulk are a first guess that the draws of the test then fill."""


class Row(NamedTuple):
    """One posterior.

    Attributes:
        mean: of each parameter.
        sd: of each parameter.
        rank: share of draws below the truth, of each parameter.
        converged: what the algorithm says of itself.
        evaluations: of the log density.
        seconds: without compiling.
    """

    mean: list[float]
    sd: list[float]
    rank: list[float]
    converged: bool
    evaluations: int
    seconds: float


Estimate = Callable[[int, Any, np.ndarray], Row]


def by_surrogate(model: Callable, algorithm: bd.MarginalSurrogate, names: tuple[str, ...]) -> Estimate:
    """Posteriors by the interpolated bound; one compiled program for all fields."""
    runner = Runner(model, algorithm, num_samples=300, names=names)

    def estimate(index: int, x: Any, truth: np.ndarray) -> Row:
        run = runner(jax.random.key(3000 + index), x)
        draws = np.stack([run.draws[name].ravel() for name in names])
        accepted = bool(run.attributes["surrogate_converged"]) and max(run.rhat.values()) < 1.01
        return row(draws, truth, accepted, run.attributes["surrogate_evaluations"], run.seconds)

    return estimate


def by_sampling(model: Callable, algorithm: Any, names: tuple[str, ...]) -> Estimate:
    """Posteriors by ``bd.sample``, with any algorithm."""

    def estimate(index: int, x: Any, truth: np.ndarray) -> Row:
        clock = time.perf_counter()
        data = bd.sample(jax.random.key(3000 + index), model, x, algorithm=algorithm, num_samples=500, progress=False)
        draws = np.stack([np.asarray(data["posterior"][name]).ravel() for name in names])
        seconds = time.perf_counter() - clock - data.attrs.get("compile_seconds", 0.0)
        converged = bool(data.attrs.get("grid_converged", 1))
        return row(draws, truth, converged, int(data.attrs.get("num_evaluations", 0)), seconds)

    return estimate


def row(draws: np.ndarray, truth: np.ndarray, converged: bool, evaluations: int, seconds: float) -> Row:
    """Summary of draws (parameters, num)."""
    rank = (draws < truth[:, None]).mean(axis=1)
    return Row(
        draws.mean(axis=1).tolist(), draws.std(axis=1, ddof=1).tolist(), rank.tolist(), converged, evaluations, seconds
    )


def posteriors(folder: Path, name: str, estimate: Estimate, fields: Any, truths: np.ndarray) -> list[Row]:
    """One row per field, from disk where it is there."""
    rows = []
    for index, (x, truth) in enumerate(zip(fields, truths, strict=True)):
        path = folder / name / f"{index:03d}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(estimate(index, x, np.asarray(truth))._asdict()))
            partial.rename(path)
        rows.append(Row(**json.loads(path.read_text())))
    return rows


class Judged(NamedTuple):
    """Rows as arrays (fields, parameters)."""

    mean: np.ndarray
    sd: np.ndarray
    rank: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Judged:
        """From rows."""
        return cls(*(np.array([getattr(r, name) for r in rows]) for name in cls._fields))

    def z(self, truths: np.ndarray) -> np.ndarray:
        """(mean - truth) / sd."""
        return (self.mean - truths) / self.sd


def calibration_figures(
    title: str,
    rows: Sequence[Row],
    truths: np.ndarray,
    names: Sequence[str],
    required: Mapping[str, tuple[float, float]] | None = None,
    coverage: bool = False,
) -> list[Figure]:
    """Mean |z|, coverage with its binomial error and widths of an estimator's posteriors.

    Args:
        title: of the estimator.
        rows: its posteriors.
        truths: (fields, parameters).
        names: of the parameters.
        required: bounds on mean |z| by parameter; without, what is compared with, of which the README has less.
        coverage: whether coverage must lie within the central 99 % of its binomial law.
    """
    judged, num, figures = Judged.of(rows), len(rows), []
    z, aside = judged.z(truths), required is None
    for i, name in enumerate(names):
        label, value = f"{title}: {name}: mean |z| of {num}", float(np.abs(z[:, i]).mean())
        figures.append(Figure(label, value) if required is None else between(label, value, *required[name]))
        figures.append(Figure(f"{title}: {name}: mean z", float(z[:, i].mean()), detail=aside))
        for level in LEVELS:
            inside = int(np.sum(np.abs(judged.rank[:, i] - 0.5) < 0.5 * level))
            label = f"{title}: {name}: truths in the central {level:.0%} interval"
            if coverage:
                low, high = binom.ppf([0.005, 0.995], num, level) / num
                figures.append(between(label, inside / num, round(float(low), 4), round(float(high), 4)))
            else:
                figures.append(Figure(label, inside / num, detail=aside))
        figures.append(Figure(f"{title}: {name}: median standard deviation", float(np.median(judged.sd[:, i]))))
        error = float(np.sqrt(np.mean((judged.mean[:, i] - truths[:, i]) ** 2)))
        figures.append(Figure(f"{title}: {name}: rms error of the mean", error))
    figures.append(Figure(f"{title}: runs that say they converged", f"{sum(r.converged for r in rows)} of {num}"))
    figures.append(Figure(f"{title}: median seconds", float(np.median([r.seconds for r in rows])), detail=True))
    evaluations = float(np.median([r.evaluations for r in rows]))
    figures.append(Figure(f"{title}: median evaluations of the log density", evaluations, detail=True))
    return figures
