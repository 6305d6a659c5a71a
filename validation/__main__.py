"""Command line: ``python -m validation NAME`` runs a study, ``python -m validation figures`` all of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from validation.campaigns import sbc
from validation.figures import RESULTS, Figure, report, show, stored
from validation.readme import FIGURES, PROJECT, write

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
    "denoiser_errors": ("denoiser_errors", "run", "errors that priors make beside those they claim"),
    "mixture_calibration": ("mixture_calibration", "run", "calibration of dust and CMB, unknown cosmology: own draws"),
    "mixture_misspecification": (
        "mixture_misspecification",
        "run",
        "the prior behind the CMB on mixtures that it does not describe",
    ),
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
    "dark_matter_calibration": (
        "dark_matter_calibration",
        "run",
        "calibration of the reconstruction on held-out simulations",
    ),
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
    project: Annotated[Path, typer.Option(help="File for the overview and the published systems.")] = PROJECT,
    figures: Annotated[Path, typer.Option(help="File for every row.")] = FIGURES,
    folder: Annotated[Path, typer.Option(help="Where figures are stored.")] = RESULTS,
) -> None:
    """Write the stored figures into the READMEs; the rows of studies that have none stay as they are."""
    try:
        write({name: about for name, (_, _, about) in STUDIES.items()}, folder, project, figures)
    except (OSError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error


@app.command()
def tables(folder: Annotated[Path, typer.Option(help="Where figures are stored.")] = RESULTS) -> None:
    """Print the figures of the published systems beside ours."""
    from validation.tables import tables

    tables(folder)


if __name__ == "__main__":
    app()
