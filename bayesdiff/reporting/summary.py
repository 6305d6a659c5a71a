"""Summary table of a posterior: one row per scalar parameter, with convergence diagnostics and the truth where known.

Intervals are **equal-tailed**: the central 68.27 % and 95.45 % of the draws between quantiles, so that they keep their
meaning under a change of variable (H0 to h, sigma to t*).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike
from rich import box
from rich.console import Console
from rich.table import Table

from bayesdiff.reporting.parameters import diagnose, is_constant, scalar_draws, scalar_truth, unit

INTERVAL = "equal-tailed"
_QUANTILES = {"low_95": 0.022750, "low_68": 0.158655, "high_68": 0.841345, "high_95": 0.977250}
COLUMNS = (
    "unit", "mean", "sd", "low_68", "high_68", "low_95", "high_95", "rhat", "ess_bulk", "ess_tail", "truth", "z",
)  # fmt: skip


def summary_table(data: xr.DataTree, derived: Mapping[str, ArrayLike] | None = None) -> pd.DataFrame:
    """Mean, spread, intervals, diagnostics and truth of every scalar parameter.

    Args:
        data: A result with groups ``posterior`` and, for simulated data, ``truth``.
        derived: Further quantities, name to draws (chain, draw), that are not in the posterior.

    Returns:
        A table with one row per parameter and the columns ``unit``, ``mean``, ``sd``, ``low_68``, ``high_68``,
        ``low_95``, ``high_95`` (equal-tailed), ``rhat`` (rank-normalised, split), ``ess_bulk``, ``ess_tail``,
        ``truth`` and ``z`` = (mean - truth) / sd; NaN where a number is not defined. ``attrs["interval"]`` names the
        kind of interval.

    Raises:
        ValueError: If there is no posterior, or a derived quantity does not have dims (chain, draw).
    """
    draws = scalar_draws(data)
    for name, values in (derived or {}).items():
        array = np.asarray(values, dtype=float)
        if array.ndim != 2:
            raise ValueError(f"derived quantity {name!r} must be an array (chain, draw), got shape {array.shape}")
        draws[name] = array
    truth = scalar_truth(data)
    rows = {name: _row(name, values, truth.get(name, math.nan)) for name, values in draws.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    table.index.name = "parameter"
    table.attrs["interval"] = INTERVAL
    return table


def _row(name: str, draws: np.ndarray, truth: float) -> list[str | float]:
    finite = draws[np.isfinite(draws)]
    if finite.size:
        mean = float(finite.mean())
        sd = 0.0 if is_constant(finite) else float(finite.std(ddof=1))
        edges = [float(np.quantile(finite, _QUANTILES[key])) for key in ("low_68", "high_68", "low_95", "high_95")]
    else:
        mean, sd, edges = math.nan, math.nan, [math.nan] * 4
    quality = diagnose(draws)
    z = (mean - truth) / sd if sd > 0 else math.nan
    return [unit(name), mean, sd, *edges, quality.rhat, quality.ess_bulk, quality.ess_tail, truth, z]


def format_value(value: float, sd: float) -> str:
    """A number with the decimals that its standard deviation deserves: two significant digits of the latter."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    if not (math.isfinite(sd) and sd > 0):
        return f"{value:.5g}"
    decimals = 1 - math.floor(math.log10(sd))
    if decimals > 7:
        return f"{value:.3e}"
    return f"{value:.{max(decimals, 0)}f}"


def summary_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table as text, each number with the digits it deserves.

    The columns for units and for truth are left out when they would be empty.
    """
    with_truth = bool(np.isfinite(table["truth"].to_numpy(dtype=float)).any())
    header = ["parameter", "mean", "sd", "68 % interval", "95 % interval", "R-hat", "bulk ESS", "tail ESS"]
    header += ["truth", "z"] if with_truth else []
    rows = []
    units = table["unit"].to_dict()
    numbers = table.drop(columns="unit").to_dict(orient="index")
    for name, row in numbers.items():
        measure, sd = units[name], row["sd"]
        cells = [f"{name} [{measure}]" if measure else str(name)]
        cells += [format_value(row[key], sd) for key in ("mean", "sd")]
        for level in ("68", "95"):
            low, high = (format_value(row[f"{side}_{level}"], sd) for side in ("low", "high"))
            cells.append("–" if low == "–" else f"{low} to {high}")
        cells.append(_plain(row["rhat"], ".3f"))
        cells += [_plain(row[key], ".0f") for key in ("ess_bulk", "ess_tail")]
        if with_truth:
            cells += [format_value(row["truth"], sd), _plain(row["z"], "+.2f")]
        rows.append(cells)
    return header, rows


def _plain(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def rich_table(table: pd.DataFrame) -> Table:
    """The table for a terminal."""
    header, rows = summary_cells(table)
    caption = f"intervals are {INTERVAL}" + ("; z = (mean - truth) / sd" if "z" in header else "")
    view = Table(box=box.SIMPLE_HEAD, caption=caption)
    for column in header:
        view.add_column(column, justify="left" if column == "parameter" else "right", no_wrap=True)
    for cells in rows:
        view.add_row(*cells)
    return view


def summary_text(table: pd.DataFrame, width: int = 140) -> str:
    """The table as aligned plain text, ``width`` characters wide at most."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(rich_table(table))
    return out.getvalue()


def write_summary(table: pd.DataFrame, path: str | Path) -> Path:
    """Write the table as CSV with full precision; returns the path."""
    path = Path(path)
    table.to_csv(path)
    return path
