"""Checks of the chains themselves: length, mixing, and what the sampler says of its own steps.

Each check takes what it needs of a result and returns findings; :func:`bayesdiff.reporting.verdict` calls them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import xarray as xr
from arviz_stats.sampling_diagnostics import bfmi

from bayesdiff.reporting.finding import Finding, Severity
from bayesdiff.reporting.parameters import diagnose, has_group, is_constant

MIN_BFMI = 0.3
MAX_DIVERGENT = 0.002
"""Share of divergent draws above which the run fails: 8 of 4,000. Any divergence at all is a warning."""
COLLAPSED_STEP = 0.05
"""A chain's step size over the median chain's below which it is stuck where the others are not."""


def check_length(data: xr.DataTree, draws: Mapping[str, np.ndarray]) -> list[Finding]:
    """Too few draws or chains, or a run that was cut short."""
    chains, length = next(iter(draws.values())).shape
    found = []
    if length < 4:
        found.append(Finding("failure", f"only {length} draws per chain", "Run longer: fewer than 4 say nothing."))
    elif chains == 1 and data.attrs.get("algorithm") != "Grid":
        what = "one chain only: its halves were compared with each other"
        found.append(Finding("note", what, "Run four chains: one chain cannot show that it missed a mode."))
    if data.attrs.get("status") == "interrupted":
        what = f"the run was interrupted; {chains} x {length} draws were kept"
        found.append(Finding("warning", what, "Continue it from its store to get all the draws asked for."))
    return found


def check_mixing(
    draws: Mapping[str, np.ndarray], min_ess: float, max_rhat: float, bounds: Mapping[str, tuple[float, float]]
) -> list[Finding]:
    """R-hat, bulk and tail ESS of every parameter; draws that are not finite or never moved."""
    bad_rhat, low_bulk, low_tail, broken, constant, unknown = {}, {}, {}, {}, [], []
    for name, values in draws.items():
        if bad := int(np.sum(~np.isfinite(values))):
            broken[name] = bad
            continue
        if is_constant(values):
            constant.append(name)
            continue
        quality = diagnose(values)
        if math.isnan(quality.rhat):
            unknown.append(name)
        elif quality.rhat > max_rhat:
            bad_rhat[name] = quality.rhat
        if quality.ess_bulk < min_ess:
            low_bulk[name] = quality.ess_bulk
        if quality.ess_tail < min_ess:
            low_tail[name] = quality.ess_tail
    found = []
    if broken:
        advice = "The density or a transform returned NaN or infinity: look there first; longer chains do not help."
        found.append(Finding("failure", f"draws that are not finite: {_list(broken, '.0f')}", advice))
    if bad_rhat:
        advice = "The chains disagree. Run longer, with more warm-up; if that does not help, look for separate modes."
        found.append(Finding("failure", f"R-hat over {max_rhat:g}: {_list(bad_rhat, '.3f')}", advice))
    if unknown and not any(values.shape[1] < 4 for values in draws.values()):
        advice = "Run longer: R-hat needs at least four draws in each half of a chain."
        found.append(Finding("failure", f"R-hat could not be computed for {', '.join(unknown)}", advice))
    for label, low in (("bulk", low_bulk), ("tail", low_tail)):
        if low:
            factor = min_ess / max(min(low.values()), 1e-9)
            advice = f"Run about {max(math.ceil(factor), 2)} times longer, or use an algorithm that mixes faster."
            found.append(Finding("failure", f"{label} ESS under {min_ess:g}: {_list(low, '.0f', 'smallest')}", advice))
    stuck = [name for name in constant if name in bounds] or (constant if len(constant) == len(draws) else [])
    if stuck and not any(values.shape[1] < 2 for values in draws.values()):
        advice = "Nothing was ever accepted: check the density at the starting point and the step size."
        found.append(Finding("failure", f"never moved: {', '.join(stuck)}", advice))
    if fixed := [name for name in constant if name not in stuck]:
        found.append(Finding("note", f"constant: {', '.join(fixed)}", "No diagnostics are defined for a constant."))
    return found


def check_sampler(data: xr.DataTree) -> list[Finding]:
    """Divergences, step size and E-BFMI."""
    if not has_group(data, "sample_stats"):
        return []
    stats, found = data["sample_stats"], []
    if "diverging" in stats.data_vars:
        diverging = np.asarray(stats["diverging"].values, dtype=bool)
        count, share = int(diverging.sum()), float(diverging.mean()) if diverging.size else 0.0
        if count:
            severity: Severity = "failure" if share > MAX_DIVERGENT else "warning"
            what = f"{count} divergent transition{'s' if count > 1 else ''} ({100 * share:.2g} % of the draws)"
            advice = "Raise the target acceptance, or reparametrise: a part of the posterior is too sharp for the step."
            found.append(Finding(severity, what, advice))
    if "step_size" in stats.data_vars:
        found += _check_step_size(np.asarray(stats["step_size"].transpose("chain", "draw", ...).values, dtype=float))
    if "energy" in stats.data_vars:
        energy = np.asarray(stats["energy"].transpose("chain", "draw", ...).values, dtype=float)
        if energy.ndim == 2 and energy.shape[1] >= 4 and np.all(np.isfinite(energy)) and np.all(np.ptp(energy, axis=1)):
            worst = float(np.min(bfmi(energy)))
            if worst < MIN_BFMI:
                advice = "The momentum explores the energy slowly: expect heavy tails; reparametrise or run longer."
                found.append(Finding("warning", f"E-BFMI {worst:.2f}, under {MIN_BFMI}", advice))
    return found


def _list(values: Mapping[str, float], form: str, worst: Literal["largest", "smallest"] = "largest") -> str:
    ordered = sorted(values.items(), key=lambda item: item[1], reverse=worst == "largest")
    shown = ", ".join(f"{name} {value:{form}}" for name, value in ordered[:6])
    return shown + (f" and {len(ordered) - 6} more" if len(ordered) > 6 else "")


def _check_step_size(step_size: np.ndarray) -> list[Finding]:
    """A chain whose adapted step is far below the others' was caught in a corner while it adapted."""
    last = step_size[:, -1]
    if not np.all(np.isfinite(last)) or np.any(last <= 0):
        return [
            Finding(
                "failure",
                "a step size that is zero or not finite",
                "Look at the density where the chain stood: it has no slope, or it is not finite.",
            )
        ]
    ratio = last / np.median(last)
    collapsed = [f"chain {i} ({ratio[i]:.1e} of the median)" for i in np.flatnonzero(ratio < COLLAPSED_STEP)]
    if not collapsed:
        return []
    advice = "It adapted in a corner of the posterior and hardly moves: run with another key or a longer warm-up."
    return [Finding("failure", f"collapsed step size: {', '.join(collapsed)}", advice)]
