"""Power and size of the calibration checks on conjugate normal posteriors, exact and wrong by a known amount.

A check that never fails proves nothing. Each row is one way in which a posterior is wrong, and the figure how many of
100 repeats with 500 simulations fail at 1 %: the default check first, which is all four tests on ranks with Holm's
correction, and then every other statistic on its own. Exact posteriors are given to the same checks; with a level of
1 % more than 5 failures of 100 have a probability of 5e-4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from bayesdiff.calibration import coverage, density_coverage, joint_density_ranks, rank_statistics, rank_tests, tarp
from bayesdiff.calibration.rank_tests import TESTS
from validation.figures import Figure, above, below

NUM_REPEATS, NUM_SIMULATIONS, NUM_DRAWS, NUM_QUANTITIES = 100, 500, 99, 3
FEW_DRAWS = 9
# Kernel densities cost the square of the number of draws.
JOINT_DRAWS = 39
LEVEL = 0.01
# Width of the draws in posterior standard deviations, and shift of their mean.
WRONG = {"inflated by 1.25": (1.25, 0.0), "shrunk by 1.25": (0.8, 0.0), "shifted by 0.25 sd": (1.0, 0.25)}


def run() -> list[Figure]:
    """All figures of this study."""
    failures: dict[str, dict[str, int]] = {}
    for name, (width, shift) in {"exact": (1.0, 0.0), **WRONG}.items():
        failures[name] = _failures(name, width, shift)
    _show(failures)
    suffix = f"{NUM_REPEATS} repeats, {NUM_SIMULATIONS} simulations"
    figures = []
    for check in ("one quantity", f"one of {NUM_QUANTITIES} quantities"):
        figures += [above(f"{name}, {check}: failures of {suffix}", failures[name][check], 94.5) for name in WRONG]
    figures += [
        below(f"exact, {check}: failures of {suffix}", number, 5.5) for check, number in failures["exact"].items()
    ]
    for name in WRONG:
        figures += [
            Figure(f"{name}, {check}: failures of {suffix}", number, detail=True)
            for check, number in failures[name].items()
            if check not in ("one quantity", f"one of {NUM_QUANTITIES} quantities")
        ]
    return figures


def _failures(name: str, width: float, shift: float) -> dict[str, int]:
    """How many repeats fail, by check."""
    total: dict[str, int] = {}
    for truth, draws in _repeats(name, width, shift):
        for check, failed in _checks(truth, draws).items():
            total[check] = total.get(check, 0) + failed
    return total


def _repeats(name: str, width: float, shift: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Truth (simulation, quantity) and draws of theta ~ N(0, 1), y ~ N(theta, 1); only the first quantity is wrong."""
    widths, shifts = np.ones(NUM_QUANTITIES), np.zeros(NUM_QUANTITIES)
    widths[0], shifts[0] = width, shift
    rng = np.random.default_rng([*name.encode()])
    for _ in range(NUM_REPEATS):
        truth = rng.standard_normal((NUM_SIMULATIONS, NUM_QUANTITIES))
        mean = (truth + rng.standard_normal(truth.shape)) / 2
        white = rng.standard_normal((NUM_SIMULATIONS, NUM_DRAWS, NUM_QUANTITIES))
        yield truth, mean[:, None] + np.sqrt(0.5) * (shifts + widths * white)


def _checks(truth: np.ndarray, draws: np.ndarray) -> dict[str, bool]:
    ranks = rank_statistics(truth, draws)
    one = rank_tests(ranks[:, 0], NUM_DRAWS)
    few = rank_tests(rank_statistics(truth[:, 0], draws[:, :FEW_DRAWS, 0]), FEW_DRAWS)
    regions = coverage(truth[:, 0], draws[..., 0])
    curve = tarp(truth[:, :1], draws[..., :1], num_bootstrap=1)
    joint = density_coverage(joint_density_ranks(truth[:, :2], draws[:, :JOINT_DRAWS, :2]), JOINT_DRAWS)
    p_values = {
        **{f"{test} test alone": float(p) for test, p in zip(TESTS, one.p_value[0], strict=True)},
        "central coverage": float(regions.central.p_value),
        "highest-density coverage": float(regions.highest_density.p_value),
        f"joint highest-density coverage, one of 2 quantities, {JOINT_DRAWS} draws": float(joint.p_value),
        "TARP": curve.p_value,
        "TARP area": curve.area_p_value,
    }
    return {
        "one quantity": not one.passes(LEVEL),
        f"one of {NUM_QUANTITIES} quantities": not rank_tests(ranks, NUM_DRAWS).passes(LEVEL),
        f"one quantity, {FEW_DRAWS} draws": not few.passes(LEVEL),
        **{name: p < LEVEL for name, p in p_values.items()},
    }


def _show(failures: dict[str, dict[str, int]]) -> None:
    title = f"Failures at {LEVEL:.0%} of {NUM_REPEATS} repeats with {NUM_SIMULATIONS} simulations, {NUM_DRAWS} draws"
    table = Table("check", *failures, title=title, title_justify="left")
    for check in failures["exact"]:
        table.add_row(check, *(str(by_check[check]) for by_check in failures.values()))
    Console(width=120).print(table)
