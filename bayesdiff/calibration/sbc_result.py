"""The outcome of a calibration study: ranks with everything beside them, the tests on them, and a verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesdiff.calibration.rank_tests import TESTS, RankTests, p_text, rank_tests
from bayesdiff.calibration.sbc_records import MEANING, NO_RANK, Fault, Records, join
from bayesdiff.calibration.sbc_store import WANTED, chunk_numbers, read_card, read_chunk
from bayesdiff.calibration.tarp import Tarp, tarp

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

MAX_RHAT = 1.05
MAX_FAILED = 0.05


@dataclass(frozen=True, eq=False)
class Sbc:
    """Ranks of the truth in every simulation, and whether they are those of a calibrated posterior.

    Attributes:
        names: of the quantities.
        records: what is kept of every simulation, arrays (simulation, ...).
        attributes: what it takes to do the study again, and ``status``, "complete" or "interrupted".
        max_rhat: R-hat above which the chains of a simulation count as failed. Four chains that are worth 100 draws
            exceed 1.05 in about one run of thirty by chance.
    """

    names: tuple[str, ...]
    records: Records
    attributes: Mapping[str, Any]
    max_rhat: float = MAX_RHAT

    @property
    def num_simulations(self) -> int:
        """Number of simulations, failed ones included."""
        return self.records.number

    @property
    def num_draws(self) -> int:
        """L, the number of draws that the truth is ranked among."""
        return self.records.draws.shape[1]

    @property
    def truth(self) -> np.ndarray:
        """True values (simulation, quantity)."""
        return self.records.truth

    @property
    def ranks(self) -> np.ndarray:
        """Ranks (simulation, quantity) from 0 to `num_draws`; -1 where a simulation has no posterior."""
        return self.records.ranks

    @property
    def draws(self) -> np.ndarray:
        """The draws (simulation, draw, quantity) that the truth is ranked among, for every other check."""
        return self.records.draws

    @property
    def z(self) -> np.ndarray:
        """(simulation, quantity) (posterior mean - truth) / posterior standard deviation."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.records.mean - self.truth) / self.records.sd

    @property
    def contraction(self) -> np.ndarray:
        """(simulation, quantity) 1 - posterior variance / variance of the truths."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - (self.records.sd / np.nanstd(self.truth, axis=0, ddof=1)) ** 2

    @cached_property
    def faults(self) -> np.ndarray:
        """(simulation,) numbers of `Fault`, those of R-hat and effective sample size included; 0 where all is well."""
        faults = self.records.faults.copy()
        faults[self.records.rhat > self.max_rhat] |= Fault.RHAT
        faults[self.ranked & ~(self.records.ess >= self.num_draws)] |= Fault.ESS
        return faults

    @property
    def ranked(self) -> np.ndarray:
        """(simulation,) whether there is a posterior."""
        return (self.ranks != NO_RANK).all(axis=1)

    @property
    def failed(self) -> np.ndarray:
        """Numbers of the simulations with a fault."""
        return np.flatnonzero(self.faults)

    def failures(self) -> dict[str, int]:
        """In how many simulations each fault occurred."""
        counts = {text: int(np.sum(self.faults & fault > 0)) for fault, text in MEANING.items()}
        return {text: number for text, number in counts.items() if number}

    @cached_property
    def tests(self) -> RankTests:
        """All tests on the ranks of all simulations that have some, failed chains included.

        Raises:
            ValueError: no simulation has a posterior.
        """
        if not self.ranked.any():
            raise ValueError(
                f"none of {self.num_simulations} simulations has a posterior, so there are no ranks to test"
            )
        return rank_tests(self.ranks[self.ranked], self.num_draws, self.names)

    @cached_property
    def joint(self) -> Tarp | None:
        """TARP of all quantities together; None where fewer than two simulations have a posterior or nothing varies.

        It finds what no quantity shows by itself, such as a wrong correlation.
        """
        varying = np.nanstd(self.truth, axis=0) > 0
        if self.ranked.sum() < 2 or not varying.any():
            return None
        return tarp(self.truth[self.ranked][:, varying], self.draws[self.ranked][..., varying])

    def uniform(self, level: float = 0.01) -> bool:
        """Whether the ranks of every quantity and, of several, those of TARP pass, each family at this level."""
        return self.tests.passes(level) and not self._jointly_wrong(level)

    def _jointly_wrong(self, level: float) -> bool:
        """Of a single quantity the tests of its ranks say all."""
        return len(self.names) > 1 and self.joint is not None and self.joint.adjusted < level

    def passes(self, level: float = 0.01, max_failed: float = MAX_FAILED) -> bool:
        """Whether the posterior counts as calibrated.

        The ranks are uniform, those of every quantity and of all together (`uniform`), every simulation has a
        posterior, and at most the part ``max_failed`` of them has a fault.
        """
        if not self.ranked.all() or len(self.failed) > max_failed * self.num_simulations:
            return False
        return self.uniform(level)

    def table(self, level: float = 0.01) -> pd.DataFrame:
        """One row per quantity: p-values of all tests, mean |z|, contraction and what the ranks say.

        Columns ``ecdf``, ``chi_square``, ``location``, ``scale`` are p-values of single tests; ``adjusted`` is the
        smallest of a quantity after Holm's correction over the table; ``z_location`` and ``z_scale`` are positive for a
        posterior that is too low and over-confident. ``attrs`` hold the numbers of simulations, of failed ones and of
        those with divergent iterations, and the p-value of TARP.

        Raises:
            ValueError: no simulation has a posterior.
        """
        import pandas as pd

        tests = self.tests
        table = pd.DataFrame(tests.p_value, index=list(self.names), columns=list(TESTS))
        table.index.name = "quantity"
        table["adjusted"] = tests.per_quantity
        table["z_location"] = tests.statistic[:, TESTS.index("location")]
        table["z_scale"] = tests.statistic[:, TESTS.index("scale")]
        table["mean_absolute_z"] = _mean_of_finite(np.abs(self.z))
        table["contraction"] = _mean_of_finite(self.contraction)
        table["verdict"] = np.where(tests.per_quantity < level, "fails", "passes")
        table.attrs = {
            "num_simulations": self.num_simulations,
            "num_failed": len(self.failed),
            "num_draws": self.num_draws,
            "num_divergent": int(np.sum(self.records.divergences > 0)),
            "joint": np.nan if self.joint is None else self.joint.adjusted,
            **self.failures(),
        }
        return table

    def verdict(self, level: float = 0.01, max_failed: float = MAX_FAILED) -> str:
        """One paragraph: whether the posterior is calibrated, what is wrong, and what failed."""
        if not self.ranked.any():
            return f"Nothing is known: none of {self.num_simulations} simulations has a posterior. {self._failed()}"
        wrong = self.tests.failures(level)
        if self.joint is not None and self._jointly_wrong(level):
            wrong.append(f"all quantities together (TARP, p {p_text(self.joint.adjusted)})")
        too_many = len(self.failed) > max_failed * self.num_simulations
        smallest = float(self.tests.adjusted.min())
        number = len(self.names)
        what = f"{number} {'quantity' if number == 1 else 'quantities'} in {self.num_simulations} simulations"
        if wrong:
            sentence = f"Not calibrated, by {what}: {'; '.join(wrong)}."
            if too_many:
                sentence += " So many simulations failed that their chains alone may be the cause."
        elif self.passes(level, max_failed):
            verb = "passes all tests of its ranks" if number == 1 else "pass all tests of their ranks"
            sentence = f"Calibrated: {what} {verb} (smallest adjusted p = {smallest:.2g})."
        else:
            sentence = f"Undecided: the ranks of {what} pass (p = {smallest:.2g}), but too many simulations failed."
        return " ".join(part for part in (sentence, self._unfinished(), self._failed(), self._diverged()) if part)

    def _unfinished(self) -> str:
        status = self.attributes.get("status")
        if status == "interrupted":
            return "The study was interrupted."
        if status != "unfinished":
            return ""
        beyond = int(self.attributes.get("num_beyond_gap", 0))
        text = f"The study is unfinished, {self.num_simulations} of {self.attributes.get(WANTED)} simulations"
        return f"{text}, and {beyond} more after a gap." if beyond else f"{text}."

    def _diverged(self) -> str:
        number = int(np.sum(self.records.divergences > 0))
        return f"Chains diverged in {number} simulation{'s' if number > 1 else ''}." if number else ""

    def _failed(self) -> str:
        if not len(self.failed):
            return ""
        some = ", ".join(map(str, self.failed[:10])) + (", ..." if len(self.failed) > 10 else "")
        why = "; ".join(f"{text}: {number}" for text, number in self.failures().items())
        left_out = int(np.sum(~self.ranked))
        counted = f"{left_out} of them have no ranks" if left_out else "their ranks are counted in"
        return f"{len(self.failed)} simulation{'s' if len(self.failed) > 1 else ''} failed ({some}; {why}), {counted}."

    def to_datatree(self) -> xr.DataTree:
        """The study as a tree that Zarr and netCDF can hold.

        Group ``simulations``: ``truth``, ``rank``, ``mean``, ``sd``, ``z``, ``contraction`` (simulation, quantity), and
        ``rhat``, ``ess``, ``divergences``, ``fault`` (simulation); group ``draws``: ``draws`` (simulation, draw,
        quantity).
        """
        import xarray as xr

        records, both = self.records, ("simulation", "quantity")
        coords = {"simulation": np.arange(self.num_simulations), "quantity": list(self.names)}
        simulations = xr.Dataset(
            {
                **{name: (both, getattr(records, name)) for name in ("truth", "mean", "sd")},
                **{"rank": (both, self.ranks), "z": (both, self.z), "contraction": (both, self.contraction)},
                **{name: ("simulation", getattr(records, name)) for name in ("rhat", "ess", "divergences")},
                "fault": ("simulation", self.faults),
            },
            coords=coords,
        )
        draws = xr.Dataset(
            {"draws": (("simulation", "draw", "quantity"), self.draws)},
            coords={**coords, "draw": np.arange(self.num_draws)},
        )
        attributes = {k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in self.attributes.items()}
        return xr.DataTree.from_dict(
            {
                "/": xr.Dataset(attrs={**attributes, "max_rhat": self.max_rhat}),
                "simulations": simulations,
                "draws": draws,
            }
        )


def read_sbc(path: str | Path, max_rhat: float = MAX_RHAT) -> Sbc:
    """What a store holds of a study, finished or not; nothing is computed.

    Chunks are read from the first to the last one before a gap. The attribute ``status`` is "unfinished" where there is
    one, or where fewer simulations are there than were asked for, and ``num_beyond_gap`` counts those after it.

    Args:
        path: the store of `sbc` or `posterior_sbc`.
        max_rhat: see `Sbc`.

    Raises:
        FileExistsError: it is no such store.
        ValueError: a file is damaged, or no simulation is finished, or not the first.
    """
    path = Path(path)
    card = read_card(path)
    parts: list[Records] = []
    while (records := read_chunk(path, card, len(parts))) is not None:
        parts.append(records)
        if records.number < card["chunk_size"]:
            break
    later = [read_chunk(path, card, number) for number in chunk_numbers(path) if number >= max(1, len(parts))]
    beyond = sum(records.number for records in later if records is not None)
    if not parts:
        more = f", but {beyond} after a gap: continue it" if beyond else ""
        raise ValueError(f"'{path}' holds no finished simulation from the first on{more}")
    records = join(parts)
    finished = not beyond and records.number >= card.get(WANTED, 0)
    status = {"status": "complete"} if finished else {"status": "unfinished", "num_beyond_gap": beyond}
    return Sbc(tuple(card["names"]), records, {**card, "num_simulations": records.number, **status}, max_rhat)


def _mean_of_finite(values: np.ndarray) -> np.ndarray:
    """Mean over simulations of each quantity, those left out whose posterior has no width; NaN where none is left."""
    finite = np.isfinite(values)
    number = finite.sum(axis=0)
    total = np.where(finite, values, 0.0).sum(axis=0)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
