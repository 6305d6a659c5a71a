"""Whether to believe a run: every check as a finding with advice, and one plain sentence.

A *failure* means that the draws do not represent the posterior and must not be used; a *warning* means that they do, or
probably do, with a reservation that the reader has to know; a *note* only explains. Thresholds: R-hat 1.01 and 100
effective draws for each of four chains (Vehtari et al. 2021, arXiv:1903.08008), E-BFMI 0.3 (Betancourt 2016,
arXiv:1604.00695).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from arviz_stats.sampling_diagnostics import bfmi

from bayesdiff.reporting.parameters import diagnose, has_group, is_constant, scalar_draws

Severity = Literal["failure", "warning", "note"]
MIN_BFMI = 0.3
MAX_DIVERGENT = 0.002
"""Share of divergent draws above which the run fails: 8 of 4,000. Any divergence at all is a warning."""
EDGE_WIDTH = 0.02
EDGE_MASS = 0.10
"""A posterior is piled on a bound if the outer 2 % of the prior range hold over 10 % of the draws (flat: 2 %)."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found, and what to do about it."""

    severity: Severity
    what: str
    advice: str


@dataclass(frozen=True)
class Verdict:
    """Result of all checks: whether the draws can be used, one sentence that says so, and what was found."""

    converged: bool
    sentence: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Literal["good", "caution", "bad"]:
        """``bad`` if not converged, ``caution`` if any warning stands, else ``good``."""
        if not self.converged:
            return "bad"
        return "caution" if any(f.severity == "warning" for f in self.findings) else "good"

    def __str__(self) -> str:
        """The sentence, then one paragraph per finding."""
        lines = [self.sentence, *(f"\n[{f.severity}] {f.what}\n    {f.advice}" for f in self.findings)]
        return "\n".join(lines) + "\n"


def verdict(
    data: xr.DataTree,
    min_ess: float = 400,
    max_rhat: float = 1.01,
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Verdict:
    """Judge the chains of a result.

    Args:
        data: A result with groups ``posterior`` and, where the engine has them, ``sample_stats``.
        min_ess: Effective draws, bulk and tail, that every parameter needs over all chains.
        max_rhat: Largest rank-normalised split R-hat allowed.
        bounds: Prior range (low, high) of the parameters that have one; says where a posterior is cut by its prior.

    Raises:
        ValueError: If there is no posterior, or a bound is not an increasing pair.
    """
    draws = scalar_draws(data)
    findings = [
        *_check_length(data, draws),
        *_check_mixing(draws, min_ess, max_rhat, bounds or {}),
        *_check_sampler(data),
        *_check_bounds(draws, bounds or {}),
        *_check_surrogate(data),
    ]
    findings.sort(key=lambda f: ("failure", "warning", "note").index(f.severity))
    converged = not any(f.severity == "failure" for f in findings)
    return Verdict(converged, _sentence(draws, findings, converged), tuple(findings))


def _check_length(data: xr.DataTree, draws: Mapping[str, np.ndarray]) -> list[Finding]:
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


def _check_mixing(
    draws: Mapping[str, np.ndarray], min_ess: float, max_rhat: float, bounds: Mapping[str, tuple[float, float]]
) -> list[Finding]:
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


def _check_sampler(data: xr.DataTree) -> list[Finding]:
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
    if "energy" in stats.data_vars:
        energy = np.asarray(stats["energy"].transpose("chain", "draw", ...).values, dtype=float)
        if energy.ndim == 2 and energy.shape[1] >= 4 and np.all(np.isfinite(energy)) and np.all(np.ptp(energy, axis=1)):
            worst = float(np.min(bfmi(energy)))
            if worst < MIN_BFMI:
                advice = "The momentum explores the energy slowly: expect heavy tails; reparametrise or run longer."
                found.append(Finding("warning", f"E-BFMI {worst:.2f}, under {MIN_BFMI}", advice))
    return found


def _check_bounds(draws: Mapping[str, np.ndarray], bounds: Mapping[str, tuple[float, float]]) -> list[Finding]:
    found = []
    for name, (low, high) in bounds.items():
        if not high > low:
            raise ValueError(f"bounds of {name!r} must be (low, high) with low < high, got {(low, high)}")
        if name not in draws or is_constant(draws[name]):
            continue
        width = EDGE_WIDTH * (high - low)
        sides = {
            f"lower bound {low:g}": float(np.mean(draws[name] < low + width)),
            f"upper bound {high:g}": float(np.mean(draws[name] > high - width)),
        }
        for side, mass in sides.items():
            if mass > EDGE_MASS:
                what = (
                    f"{name} is piled on its prior's {side}: {100 * mass:.0f} % of draws in the outer 2 % of its range"
                )
                advice = (
                    "The prior, not the data, sets this edge: widen it if physics allows; do not quote the mean alone."
                )
                found.append(Finding("warning", what, advice))
    return found


def _check_surrogate(data: xr.DataTree) -> list[Finding]:
    if "surrogate_converged" not in data.attrs and "surrogate_rms" not in data.attrs:
        return []
    rms = float(data.attrs.get("surrogate_rms", math.nan))
    accepted = str(data.attrs.get("surrogate_converged", False)).lower() in ("true", "1", "1.0")
    error = f"surrogate minus bound is {rms:.2f} nat rms at fresh posterior draws"
    if accepted and math.isfinite(rms):
        return [Finding("note", f"acceptance test passed: {error}", "Nothing to do.")]
    advice = "The correction is not accurate where the posterior is: allow more design points, or use Gibbs."
    return [Finding("failure", f"the surrogate failed its acceptance test: {error}", advice)]


def _sentence(draws: Mapping[str, np.ndarray], findings: list[Finding], converged: bool) -> str:
    serious = [f.what for f in findings if f.severity == ("warning" if converged else "failure")]
    if not converged:
        return f"Do not use: {'; '.join(serious)}."
    qualities = [q for q in (diagnose(v) for v in draws.values()) if not math.isnan(q.rhat)]
    chains, length = next(iter(draws.values())).shape
    rhat, ess = max(q.rhat for q in qualities), min(min(q.ess_bulk, q.ess_tail) for q in qualities)
    basis = (
        f"{chains} chain{'s' if chains > 1 else ''} of {length:,} draws, R-hat at most {rhat:.3f}, "
        f"at least {ess:,.0f} effective draws of every parameter"
    )
    if serious:
        return f"Converged, with reservations: {basis}; but {'; '.join(serious)}."
    return f"Converged: {basis}."


def _list(values: Mapping[str, float], form: str, worst: Literal["largest", "smallest"] = "largest") -> str:
    ordered = sorted(values.items(), key=lambda item: item[1], reverse=worst == "largest")
    shown = ", ".join(f"{name} {value:{form}}" for name, value in ordered[:6])
    return shown + (f" and {len(ordered) - 6} more" if len(ordered) > 6 else "")
