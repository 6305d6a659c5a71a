"""Command line: ``python -m validation NAME`` runs a study, ``python -m validation figures`` all of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from validation.campaigns import sbc
from validation.figures import RESULTS, Figure, markdown, overview, report, rows_in, rows_of, show, stored

# Studies are imported when they are run: some need packages and data that others do not.
STUDIES = {
    "densities": ("densities", "run", "log densities against the closed form on the analytic twin"),
    "engines": ("engines", "run", "every engine on the analytic twin"),
    "noncentred": ("noncentred", "run", "a whole field sampled without centre, against its exact posterior"),
    "field_gibbs": ("noncentred", "gibbs", "a whole field sampled by Gibbs, against its exact posterior"),
    "power": ("power", "run", "calibration checks on posteriors that are wrong by a known amount"),
    "twin_calibration": ("twin_calibration", "run", "a thousand simulations of the twin each by NUTS and by a grid"),
    "twin_calibration_gibbs": ("twin_calibration", "gibbs", "a thousand simulations of the twin by Gibbs"),
    "misspecification": ("misspecification", "run", "posteriors of the twin on data that it does not describe"),
    "prior_calibration": ("prior_calibration", "run", "calibration of the dust prior: its own draws and held-out dust"),
    "prior_misspecification": ("prior_misspecification", "run", "the dust prior on data that it does not describe"),
    "shipped_calibration": ("shipped_calibration", "run", "calibration of the other shipped priors"),
    "simulations": ("simulations", "run", "spectra of the N-body simulations against halofit"),
    "known_answer": ("known_answer", "run", "a trained conditional prior whose posterior is known, by every estimator"),
    "density_fields": ("density_fields", "run", "cosmology from dark-matter fields of 150 held-out simulations"),
    "density_calibration": ("density_calibration", "run", "calibration of the likelihoods of a dark-matter field"),
    "density_calibration_others": ("density_calibration", "others", "the same of L_0, plain bound, flow, all terms"),
    "density_joint": ("density_joint", "run", "several dark-matter fields of one cosmology; one in unknown noise"),
    "density_engines": ("density_fields", "engines", "grid, HMC and NUTS on one bound of a dark-matter field"),
    "density_cost": ("density_fields", "cost", "what the posterior of one dark-matter field costs"),
    "density_fidelity": ("density_fidelity", "run", "fields of the conditional prior beside unseen simulations"),
    "matter": ("denoising", "matter", "the prior of the large-scale structure: draws, denoising, unknown noise level"),
    "dust": ("denoising", "dust", "the prior of dust in white noise: draws, denoising, unknown noise level"),
    "dark_matter": ("dark_matter", "run", "dark matter reconstructed from the stars of held-out simulations"),
    "masked_map": ("masked_map", "run", "held-out dust under a mask, by Gibbs with the trained prior and its twin"),
    "mass_mapping": ("mass_mapping", "run", "mass maps of HST-COSMOS and of a held-out simulation, against Wiener's"),
    "mass_mapping_held_out": ("mass_mapping", "held_out", "the held-out simulation with the trained convergence prior"),
    "cib_tsz": ("cib_tsz", "run", "the priors of CIB and tSZ: draws beside held-out mocks"),
    "cib_tsz_amplitudes": ("cib_tsz", "amplitudes", "amplitudes of CIB and tSZ in simulated maps of two frequencies"),
    "grid": ("grid", "run", "the adaptive grid on the analytic twin: evidence, marginals and evaluations"),
    "emulator": ("emulator", "run", "the CMB emulator against CAMB, the flat sky against the curved one"),
    "prior": ("prior", "run", "draws of the shipped prior against its training maps"),
    "estimators": ("estimators", "run", "estimators of the log density on the shipped prior"),
    "speed": ("speed", "run", "NUTS against NumPyro's own and against a bare BlackJAX loop"),
    "restart": ("restart", "run", "runs that are killed at random times and continued"),
    "campaign_restart": ("campaign_restart", "run", "campaigns that are killed and continued, and a lost worker"),
    "memory": ("memory", "run", "peak memory of runs that sample a field"),
    "timing": ("study", "timing", "the default run from start to report"),
    "mixtures": ("mixtures", "run", "40 mixtures of held-out dust with known truth"),
    "outliers": ("outliers", "run", "the mixtures far from their truth: which density, which modes"),
    "cross_check": ("mixtures", "cross_check", "Gibbs against the surrogate on five mixtures"),
    "real": ("study", "real", "four patches of real dust"),
}

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


def _run(name: str) -> list[Figure]:
    module, function, _ = STUDIES[name]
    return getattr(import_module(f"validation.{module}"), function)()


def _add(name: str) -> None:
    text = STUDIES[name][2]

    @app.command(name, help=text[0].upper() + text[1:] + ".")
    def command() -> None:
        if not report(name, _run(name)):
            raise typer.Exit(1)


for _name in STUDIES:
    _add(_name)


app.command("sbc")(sbc)


@app.command()
def figures(
    again: Annotated[bool, typer.Option(help="Run studies anew whose figures are stored.")] = False,
    folder: Annotated[Path, typer.Option(help="Where figures are stored.")] = RESULTS,
) -> None:
    """Run every study that has not been run and print all figures."""
    met = True
    for name in STUDIES:
        known = None if again else stored(name, folder)
        if known is None:
            known = _run(name)
            report(name, known, folder)
        else:
            show(name, known)
        met = met and all(figure.met is not False for figure in known)
    if not met:
        raise typer.Exit(1)


@app.command()
def pages(
    again: Annotated[bool, typer.Option(help="Run studies anew whose figures are stored.")] = False,
) -> None:
    """Build the calibration pages of the models that ship, and an index of them."""
    from validation import pages

    for name in pages.STUDIES:
        if again or stored(name, RESULTS) is None:
            report(name, _run(name))
    typer.echo(f"wrote {pages.write_index(RESULTS)}")


@app.command()
def readme(
    path: Annotated[Path, typer.Argument(help="File with two comments around the table.")] = Path("README.md"),
    folder: Annotated[Path, typer.Option(help="Where figures are stored.")] = RESULTS,
) -> None:
    """Write the stored figures into the README; the rows of studies that have none stay as they are."""
    begin, end = "<!-- figures -->", "<!-- end of figures -->"
    text = path.read_text()
    if begin not in text or end not in text:
        typer.echo(f"{path} has no {begin} ... {end}", err=True)
        raise typer.Exit(2)
    head, _, rest = text.partition(begin)
    table, _, tail = rest.partition(end)
    rows = {name: rows for name, rows in rows_in(table).items() if name in STUDIES}
    rows |= {name: rows_of(name, figures) for name in STUDIES if (figures := stored(name, folder)) is not None}
    ordered = {name: rows[name] for name in STUDIES if name in rows}
    about = {name: text for name, (_, _, text) in STUDIES.items()}
    folded = f"<details><summary>Every figure</summary>\n\n{markdown(ordered)}\n\n</details>"
    path.write_text(f"{head}{begin}\n{overview(ordered, about)}\n\n{folded}\n{end}{tail}")


@app.command()
def tables(folder: Annotated[Path, typer.Option(help="Where figures are stored.")] = RESULTS) -> None:
    """Print the figures of the published systems beside ours."""
    from validation.tables import tables

    tables(folder)


if __name__ == "__main__":
    app()
