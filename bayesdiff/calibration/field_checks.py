"""All checks of fields together, for the page of a study and for a verdict: bands, pixels, functionals, TARP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bayesdiff.calibration.arrays import Key, generator
from bayesdiff.calibration.coverage import SIGMAS
from bayesdiff.calibration.field_coverage import BandCoverage, Fields, PixelCoverage, band_coverage, pixel_coverage
from bayesdiff.calibration.field_functionals import channel_names, field_tarp, functional_ranks
from bayesdiff.calibration.rank_tests import RankTests, holm, p_text, rank_tests
from bayesdiff.calibration.tarp import Tarp


class FieldChecks(NamedTuple):
    """Whether the truth of a field could be one of its draws.

    Attributes:
        bands: coverage of Fourier coefficients, per band.
        pixels: coverage of pixels.
        functionals: tests of the ranks of band powers, Minkowski functionals and the maximum.
        tarp: of the whole field.
        num_simulations: fields that were looked at.
        channels: their names.
    """

    bands: BandCoverage
    pixels: PixelCoverage
    functionals: RankTests
    tarp: Tarp
    num_simulations: int
    channels: tuple[str, ...]

    def p_values(self) -> dict[str, float]:
        """Smallest p-value of each check, corrected within the check for the number of its tests, by name."""
        return {
            "coverage of Fourier bands": float(holm(self.bands.coverage.p_value).min()),
            "spread in Fourier bands": float(holm(self.bands.spread.p_value).min()),
            "coverage of pixels": float(holm(self.pixels.coverage.p_value).min()),
            "location of pixels": float(holm(self.pixels.location.p_value).min()),
            "functionals": float(self.functionals.adjusted.min()),
            "TARP": self.tarp.adjusted,
        }

    def passes(self, level: float = 0.01) -> bool:
        """Whether no check fails at this level, corrected for the number of checks."""
        return bool(holm(list(self.p_values().values())).min() >= level)

    def verdict(self, level: float = 0.01) -> str:
        """One paragraph: whether fields are calibrated, and in which bands they are not."""
        names, p = list(self.p_values()), holm(list(self.p_values().values()))
        if p.min() >= level:
            passed = f"{len(names)} checks of {self.num_simulations} fields pass"
            return f"Fields calibrated: {passed} (smallest p = {p.min():.2g})."
        wrong = "; ".join(f"{names[i]} (p {p_text(float(p[i]))})" for i in np.argsort(p) if p[i] < level)
        return f"Fields not calibrated: {wrong}. {self._bands(level)}".strip()

    def _bands(self, level: float) -> str:
        """Which bands are over-confident or too wide."""
        spread = self.bands.spread
        failing = holm(spread.p_value) < level
        words = []
        for side, text in ((1, "over-confident"), (-1, "too wide")):
            channels, bands = np.nonzero(failing & (np.sign(spread.z) == side))
            several = spread.z.shape[0] > 1
            where = [
                f"{self.bands.centers[b]:.3g}" + (f" ({self.channels[c]})" if several else "")
                for c, b in zip(channels, bands, strict=True)
            ]
            if where:
                words.append(f"{text} at |k| of {', '.join(where)}")
        return f"The draws are {' and '.join(words)}." if words else ""


def check_fields(
    truth: Fields,
    draws: Fields,
    num_bins: int | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
    thresholds: Sequence[float] = (-1.0, 0.0, 1.0),
    levels: ArrayLike = SIGMAS,
    key: Key = 0,
    channels: Sequence[str] | None = None,
) -> FieldChecks:
    """Every check of fields.

    Args:
        truth: (simulation, channel, height, width).
        draws: (simulation, draw, channel, height, width), independent draws; any array-like indexed by simulation.
        num_bins: number of bands of |k|, as in `bayesdiff.fields.power_spectrum`.
        edges: band edges instead of ``num_bins``, in units of the fundamental mode.
        thresholds: of the Minkowski functionals, in standard deviations of all truths.
        levels: nominal levels of central intervals.
        key: for ties and references.
        channels: their names; default "channel 0", "channel 1", ...

    Raises:
        ValueError: if the shapes or the names do not fit, a value is NaN, or a band holds no mode.

    Example::

        checks = check_fields(truth, draws, edges=(0.5, 2.5, 8.5, 32.0))
        print(checks.verdict())
    """
    rng, channels = generator(key), channel_names(channels, truth.shape[1])
    ranked = functional_ranks(truth, draws, num_bins, edges, thresholds, key=rng, channels=channels)
    return FieldChecks(
        bands=band_coverage(truth, draws, num_bins, edges=edges, levels=levels, key=rng),
        pixels=pixel_coverage(truth, draws, levels, key=rng),
        functionals=rank_tests(ranked.ranks, ranked.num_draws, ranked.names),
        tarp=field_tarp(truth, draws, num_bins=num_bins, edges=edges, key=rng),
        num_simulations=truth.shape[0],
        channels=channels,
    )
