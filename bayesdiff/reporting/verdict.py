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

from bayesdiff.reporting.chain_checks import check_length, check_mixing, check_sampler
from bayesdiff.reporting.finding import Finding
from bayesdiff.reporting.model_checks import check_bounds, check_overlap, check_predictive, check_surrogate
from bayesdiff.reporting.parameters import diagnose, scalar_draws


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
        data: A result with groups ``posterior`` and, where they are known, ``sample_stats``, ``prior`` (draws of it)
            and ``predictive_checks`` (see :func:`bayesdiff.predictive_checks`).
        min_ess: Effective draws, bulk and tail, that every parameter needs over all chains.
        max_rhat: Largest rank-normalised split R-hat allowed.
        bounds: Prior range (low, high) of the parameters that have one; says where a posterior is cut by its prior.

    Raises:
        ValueError: If there is no posterior, or a bound is not an increasing pair.
    """
    draws = scalar_draws(data)
    findings = [
        *check_length(data, draws),
        *check_mixing(draws, min_ess, max_rhat, bounds or {}),
        *check_sampler(data),
        *check_bounds(draws, bounds or {}),
        *check_overlap(data, draws, bounds or {}),
        *check_surrogate(data),
        *check_predictive(data),
    ]
    findings.sort(key=lambda f: ("failure", "warning", "note").index(f.severity))
    converged = not any(f.severity == "failure" for f in findings)
    return Verdict(converged, _sentence(draws, findings, converged), tuple(findings))


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
