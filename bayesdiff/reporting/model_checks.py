"""Checks of the posterior against its model: prior bounds, prior, surrogate, and data replicated from the posterior.

Each check takes what it needs of a result and returns findings; :func:`bayesdiff.reporting.verdict` calls them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from bayesdiff.reporting.finding import Finding
from bayesdiff.reporting.parameters import has_group, is_constant

EDGE_WIDTH = 0.02
EDGE_MASS = 0.10
"""A posterior is piled on a bound if the outer 2 % of the prior range hold over 10 % of the draws (flat: 2 %)."""
LARGE_OVERLAP = 0.9
"""Area under the smaller of prior and posterior density from which the data are said to be silent on a parameter."""
_OVERLAP_BINS = 20
PREDICTIVE_DEVIATION = 4.0
"""An observed statistic is unlike the replicated ones if it lies outside all of them and this many of their standard
deviations from their mean."""
RESIDUAL_P = 0.001
"""Posterior predictive p-value of a band of the separated noise below which, or above one minus which, it is reported;
such p-values gather around 1/2 if the model is right (Gelman, Meng & Stern 1996)."""


def check_bounds(draws: Mapping[str, np.ndarray], bounds: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """Parameters whose draws pile up at a bound of their prior."""
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


def check_surrogate(data: xr.DataTree) -> list[Finding]:
    """Whether the surrogate of a marginal likelihood passed its acceptance test."""
    if "surrogate_converged" not in data.attrs and "surrogate_rms" not in data.attrs:
        return []
    rms = float(data.attrs.get("surrogate_rms", math.nan))
    accepted = str(data.attrs.get("surrogate_converged", False)).lower() in ("true", "1", "1.0")
    error = f"surrogate minus bound is {rms:.2f} nat rms at fresh posterior draws"
    if accepted and math.isfinite(rms):
        return [Finding("note", f"acceptance test passed: {error}", "Nothing to do.")]
    advice = "The correction is not accurate where the posterior is: allow more design points, or use Gibbs."
    return [Finding("failure", f"the surrogate failed its acceptance test: {error}", advice)]


def check_overlap(
    data: xr.DataTree, draws: Mapping[str, np.ndarray], bounds: Mapping[str, tuple[float, float]]
) -> list[Finding]:
    """Parameters of which the data say next to nothing: their posterior is their prior.

    The prior is the draws in the group ``prior``, or, for a parameter with bounds and no draws, uniform between them.
    """
    silent = []
    for name, values in draws.items():
        if is_constant(values) or not np.all(np.isfinite(values)):
            continue
        if has_group(data, "prior") and name in data["prior"].data_vars:
            prior = np.asarray(data["prior"][name].values, dtype=float).ravel()
            edges = np.quantile(prior, np.linspace(0.0, 1.0, _OVERLAP_BINS + 1))
        elif name in bounds:
            edges = np.linspace(*bounds[name], _OVERLAP_BINS + 1)
        else:
            continue
        # Bins of equal prior mass.
        edges[[0, -1]] = -np.inf, np.inf
        share = np.histogram(values, edges)[0] / values.size
        overlap = float(np.minimum(share, 1.0 / _OVERLAP_BINS).sum())
        if overlap > LARGE_OVERLAP:
            silent.append(f"{name} ({overlap:.0%})")
    if not silent:
        return []
    what = f"the data say almost nothing of {', '.join(silent)}: overlap of prior and posterior"
    return [Finding("note", what, "Quote it as unconstrained: what stands in the table is the prior.")]


def check_predictive(data: xr.DataTree) -> list[Finding]:
    """What the observation has and data replicated from the posterior have not."""
    if not has_group(data, "predictive_checks"):
        return []
    checks, found = data["predictive_checks"].to_dataset(), []
    for site in checks.attrs["sites"].split(","):
        if f"{site}_observed" in checks:
            observed, replicated = checks[f"{site}_observed"].values, checks[f"{site}_replicated"].values
            outside = (observed < replicated.min(axis=0)) | (observed > replicated.max(axis=0))
            deviation = (observed - replicated.mean(axis=0)) / np.maximum(replicated.std(axis=0), 1e-300)
            bad = np.flatnonzero(outside & (np.abs(deviation) > PREDICTIVE_DEVIATION))
            names = checks[f"{site}_statistic"].values
            if bad.size:
                which = ", ".join(f"{names[i]} ({deviation[i]:+.1f} s.d.)" for i in bad)
                what = f"'{site}' is unlike data replicated from the posterior: {which}"
                advice = "The model does not describe this observation: look at what it lacks before using the numbers."
                found.append(Finding("warning", what, advice))
        if f"{site}_residual_p" in checks:
            p = checks[f"{site}_residual_p"].values
            bad = np.flatnonzero((p < RESIDUAL_P) | (p > 1.0 - RESIDUAL_P))
            excess = checks[f"{site}_residual_ratio"].values
            if bad.size:
                bands = checks[f"{site}_band"].values
                which = ", ".join(f"|k| around {bands[i]:.0f} ({excess[i]:.2f} of it)" for i in bad)
                what = f"the noise separated from '{site}' has not the power that the model gives it: {which}"
                advice = (
                    "The field's prior lacks, or has too much of, structure at these scales, and the noise makes up "
                    "for it; its amplitude and spectrum are biased."
                )
                found.append(Finding("warning", what, advice))
    return found
