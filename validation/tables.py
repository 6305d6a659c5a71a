"""Tables against the literature: figures of the published systems beside ours.

``python -m validation tables`` prints them. A published figure stands here with its source; ours is looked up among the
figures of a study, those that were stored last or, where a study was not run here, those in ``README.md`` of this
folder, and ``python -m validation readme`` writes the same table into the project's README. The data are
never the same, and every table says how they differ.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from validation.figures import RESULTS, rows_in, rows_of, stored

PAGE = Path(__file__).resolve().parent / "README.md"
NOT_DONE = "not done"
NOT_MEASURED = "not measured"


class Entry(NamedTuple):
    """A quantity in the literature and here.

    Attributes:
        quantity: what was measured.
        published: its published value, or that there is none.
        study: of ours that measures it.
        figure: how the name of its figure begins.
    """

    quantity: str
    published: str
    study: str
    figure: str


class System(NamedTuple):
    """A published system.

    Attributes:
        title: what it does.
        source: where it is published.
        difference: between its data and ours.
        entries: what is compared.
    """

    title: str
    source: str
    difference: str
    entries: tuple[Entry, ...]


SYSTEMS = (
    System(
        "Blind separation of dust and CMB",
        "Heurtel-Depeiges et al. 2023, arXiv:2310.16285",
        "Published: dust of a turbulence simulation, 256 x 256 pixels, cosmology and noise level given. Here: two maps "
        "of another MHD simulation, 64 x 64 pixels, both inferred.",
        tuple(
            Entry(f"mean |z| of {name}, inferred", NOT_DONE, "mixtures", f"{name}: mean |z|")
            for name in ("H0", "omega_b", "sigma")
        )
        + (
            Entry("seconds from map to report, two CPU cores", NOT_DONE, "timing", "default run from start"),
            Entry(
                "ESS per second over that of Gibbs sampling", "1 (arXiv:2402.19455)", "cross_check", "ESS per second"
            ),
        ),
    ),
    System(
        "Priors of dust and large-scale structure, denoising",
        "Heurtel-Depeiges et al. 2022, arXiv:2211.12444",
        "Published: dust and lensing-like maps, noise level given, 1,000 steps. Here: Quijote and MHD maps, 64 x 64 "
        "pixels, noise level given or inferred.",
        (
            Entry(
                "spectra by 30 evaluations less those by 1,000 [sample errors]",
                "takes 1,000",
                "matter",
                "spectra of draws",
            ),
            Entry("matter: error over Wiener's, s = 1", "below 1", "matter", "s = 1: mean square error"),
            Entry("dust: error over Wiener's, s = 1", "below 1", "dust", "s = 1: mean square error"),
            Entry(
                "matter: mean |z| of an unknown noise level",
                NOT_DONE,
                "matter",
                "unknown noise: noise_level: mean |z|",
            ),
            Entry("dust: mean |z| of an unknown noise level", NOT_DONE, "dust", "unknown noise: noise_level: mean |z|"),
        ),
    ),
    System(
        "Conditional emulator whose bound infers cosmology",
        "Mudur, Cuesta-Lazaro & Finkbeiner 2023, arXiv:2312.07534",
        "Published: CAMELS dark matter, 256 x 256 pixels, ten fields, recomputed from its notebook. Here: "
        "particle-mesh simulations of the same box, 64 x 64 pixels, 150 fields. Calibrated is a mean |z| of 0.80.",
        (
            Entry("mean |z| of Omega_m", "2.75", "density_fields", "recommended: Omega_m: mean |z|"),
            Entry("mean |z| of sigma_8", "1.15", "density_fields", "recommended: sigma_8: mean |z|"),
            Entry(
                "reduced chi-square of spectra, generated", "1.30", "density_fidelity", "spectra: reduced chi-square, g"
            ),
            Entry("the same, leave-one-out", "1.27", "density_fidelity", "spectra: reduced chi-square, s"),
            Entry(
                "evaluations of a posterior over those of the 2,500-point grid",
                "1",
                "density_cost",
                "one posterior: network evaluations",
            ),
        ),
    ),
    System(
        "Dark matter from galaxies",
        "Ono et al. 2024, arXiv:2403.10648",
        "Published: star particles of hydrodynamic simulations (CAMELS), 256 x 256 pixels. Here: stars drawn by three "
        "recipes in particle-mesh simulations of the same box, 64 x 64 pixels.",
        (
            Entry(
                "R(k) of draws of the mass > 0.9, up to [fundamental modes of 25 Mpc/h]",
                "to the shot noise",
                "dark_matter",
                "stars 'power': R(k) of a draw of the mass is above",
            ),
            Entry(
                "the same of the logarithm of the mass",
                "to the shot noise",
                "dark_matter",
                "stars 'power': R(k) of a draw of the log mass is above",
            ),
            Entry(
                "R(k) > 0.8 with stars of another recipe, up to",
                "to the shot noise",
                "dark_matter",
                "stars 'threshold': R(k) of a draw of the mass is above",
            ),
            Entry(
                "R(k) > 0.8 with stars of a third, up to",
                "to the shot noise",
                "dark_matter",
                "stars 'environment': R(k) of a draw of the mass is above",
            ),
            Entry(
                "spectra by 28 evaluations less those by 250 [sample errors]",
                "takes 250",
                "dark_matter",
                "power of draws by",
            ),
        ),
    ),
    System(
        "Correlated CIB and tSZ",
        "Prabhu, Raghunathan & Knox 2025, arXiv:2506.09036",
        "Published: patches of the Agora simulation. Here: an own mock of halos on a correlated density, 64 x 64 "
        "pixels.",
        (
            Entry("CIB power, largest difference over the sample scatter", "0.25", "cib_tsz", "cib-tsz-64: CIB 150: l"),
            Entry("tSZ power, the same", "0.25", "cib_tsz", "cib-tsz-64: tSZ: largest"),
            Entry("CIB x tSZ, the same", "0.25", "cib_tsz", "cib-tsz-64: CIB 150 x tSZ: l"),
            Entry(
                "profiles stacked on peaks above 5 s.d.", "0.08", "cib_tsz", "cib-tsz-64: tSZ stacked on peaks above 5"
            ),
            Entry("the same, peaks of 3 to 5 s.d.", "0.08", "cib_tsz", "cib-tsz-64: tSZ stacked on peaks of 3"),
            Entry(
                "bispectra, largest difference over the sample scatter",
                "within it",
                "cib_tsz",
                "cib-tsz-64: bispectrum: largest",
            ),
            Entry("trispectra, the same", "within it", "cib_tsz", "cib-tsz-64: trispectrum: largest"),
            Entry("correlations of frequencies, largest difference", "0.03", "cib_tsz", "cib-64: correlations"),
        ),
    ),
)


def ours(entry: Entry, rows: Mapping[str, list[str]]) -> str:
    """Our figure for an entry, as it was printed; ``rows`` are those of `validation.figures.rows_of`, by study."""
    for row in rows.get(entry.study, []):
        _, _, name, value, *_ = (cell.strip() for cell in row.replace("\\|", "¦").split("|"))
        if name.replace("¦", "|").startswith(entry.figure):
            return value
    return NOT_MEASURED


def latest(folder: Path, page: Path) -> dict[str, list[str]]:
    """Rows of every study of the tables: stored in ``folder`` or else in ``page``."""
    rows = rows_in(page.read_text())
    for study in {entry.study for system in SYSTEMS for entry in system.entries}:
        if (figures := stored(study, folder)) is not None:
            rows[study] = rows_of(study, figures)
    return rows


def published(rows: Mapping[str, list[str]]) -> str:
    """All systems as one Markdown table, and how their data differ."""
    lines = ["| system | quantity | published | here | study |", "|---|---|---|---|---|"]
    for system in SYSTEMS:
        first = f"{system.title} ({system.source})"
        for entry in system.entries:
            quantity = entry.quantity.replace("|", "\\|")
            lines.append(f"| {first} | {quantity} | {entry.published} | {ours(entry, rows)} | `{entry.study}` |")
            first = ""
    texts = (f"* *{system.title}.* {system.difference}" for system in SYSTEMS)
    return "\n".join([*lines, "", *(textwrap.fill(text, 120, subsequent_indent="  ") for text in texts)])


def tables(folder: Path = RESULTS, page: Path = PAGE) -> None:
    """Print a table for each published system."""
    console, rows = Console(width=140), latest(folder, page)
    for system in SYSTEMS:
        table = Table("quantity", "published", "here", "study", title=f"{system.title} ({system.source})")
        for entry in system.entries:
            table.add_row(escape(entry.quantity), entry.published, escape(ours(entry, rows)), entry.study)
        console.print(table)
        console.print(system.difference, style="dim")
