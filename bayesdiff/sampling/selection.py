"""Which sites of a run are kept, and which of their draws: ``keep=`` and ``thin=``.

``keep`` names the sites to keep; without it all latent and deterministic sites are kept. ``thin=10`` keeps draws 0, 10,
20, ... of every site, ``thin={"x": 10}`` of that one. The sites with the most draws make up the group ``posterior``; a
site thinned more stands in ``posterior_every_10``, with the same labels of its draws. Statistics are never thinned:
they are small, and a verdict needs every divergence. What is not kept is not even computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .target import Target

STATISTICS = "sample_stats"


class DrawGroup(NamedTuple):
    """Sites whose draws are kept alike.

    Attributes:
        name: of the group in the result.
        every: draws 0, ``every``, 2 ``every``, ... are kept.
        sites: names of the sites; None for all.
    """

    name: str
    every: int
    sites: tuple[str, ...] | None

    def count(self, num_draws: int) -> int:
        """How many of the first ``num_draws`` draws are kept."""
        return -(-num_draws // self.every)


ALL_DRAWS = (DrawGroup("posterior", 1, None),)


def select(
    target: Target, keep: str | Sequence[str] | None = None, thin: int | Mapping[str, int] = 1
) -> tuple[DrawGroup, ...]:
    """The groups of kept draws, ``posterior`` first.

    Raises:
        ValueError: an unknown site, no site at all, or a thinning below one.
    """
    if isinstance(keep, Mapping):
        raise ValueError("keep takes the names of the sites to keep; to keep every tenth draw of x, thin={'x': 10}")
    sites = tuple(name for name in target.dims if name not in target.functions.observed)
    names = sites if keep is None else (keep,) if isinstance(keep, str) else tuple(keep)
    if not names:
        raise ValueError(f"keep must name a site at least, of {sites}")
    thinned = {} if isinstance(thin, int) else dict(thin)
    for what, known, given in (("keep", sites, names), ("thin", names, thinned)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"{what} names {unknown[0]!r}, which is none of the sites that are kept: {known}")
    every = {name: thin if isinstance(thin, int) else thinned.get(name, 1) for name in sites if name in names}
    for name, number in every.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"thin must be a whole number of at least 1, got {number!r} for {name!r}")
    smallest = min(every.values())
    return tuple(
        DrawGroup(
            "posterior" if number == smallest else f"posterior_every_{number}",
            number,
            tuple(name for name in every if every[name] == number),
        )
        for number in sorted(set(every.values()))
    )
