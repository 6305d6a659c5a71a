"""Cosmology from dark-matter fields on the command line: ``python -m inference density_fields``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from inference.exits import command_line, speaking

if TYPE_CHECKING:
    import bayesdiff as bd
    from models.density_fields.observation import DensityFields

_OBSERVATION = "Observation (default: a map of a new N-body simulation)"
_INFERENCE, _OUTPUT = "Inference", "Output"


class Engine(StrEnum):
    """How the posterior is sampled."""

    surrogate = "surrogate"
    nuts = "nuts"
    hmc = "hmc"
    grid = "grid"


def density_fields(
    observation_file: Annotated[
        str | None,
        typer.Option(
            "--observation",
            metavar="FILE[:ARRAY]",
            help="Maps of surface density (.npy or .npz) in (Msun/h) / (Mpc/h)^2, as those of CAMELS: one, or several "
            "of one cosmology; of the prior's 64 x 64 pixels, or finer to be averaged.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    pixel_mpc_h: Annotated[
        float | None,
        typer.Option(
            help="Side of a pixel of that file, in Mpc/h, to be checked; its maps must be 25 Mpc/h wide.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    map_index: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Which of the 15 maps of the simulation, or of the maps of the file.",
            show_default="0; all of a file",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    omega_m: Annotated[
        float | None,
        typer.Option(
            help="True Omega_m: of the simulation, or of a file where it is known.",
            show_default="0.3",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    sigma_8: Annotated[
        float | None, typer.Option(help="True sigma_8.", show_default="0.8", rich_help_panel=_OBSERVATION)
    ] = None,
    noise_level: Annotated[
        float | None,
        typer.Option(
            help="Add white noise of so many standard deviations of the maps, and infer its level as an unknown.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            metavar="NAME | PATH",
            help="Conditional prior of the field: a trained one by name, or the folder of a saved model.",
            rich_help_panel=_INFERENCE,
        ),
    ] = "density-fields-64",
    engine: Annotated[
        Engine,
        typer.Option(
            help="Of the recommended likelihood, the bound raised to the exponent of the prior's card. surrogate: NUTS "
            "on the twin plus an interpolated correction; nuts, hmc, grid: on the bound itself, hours rather than a "
            "minute.",
            rich_help_panel=_INFERENCE,
        ),
    ] = Engine.surrogate,
    estimators: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME...",
            help="What is shown beside it: twin, bound, L_0, first_terms, all_terms, flow, power_spectrum, regression, "
            "or none.",
            show_default="all but flow",
            rich_help_panel=_INFERENCE,
        ),
    ] = None,
    num_chains: Annotated[int, typer.Option(min=1, help="Chains.", rich_help_panel=_INFERENCE)] = 4,
    num_samples: Annotated[int, typer.Option(min=4, help="Draws of each chain.", rich_help_panel=_INFERENCE)] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of every random number.", rich_help_panel=_INFERENCE)] = 0,
    output: Annotated[Path, typer.Option(help="Folder for the results.", rich_help_panel=_OUTPUT)] = Path(
        "runs/density_fields"
    ),
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the results of an earlier run there.", rich_help_panel=_OUTPUT),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Infer Omega_m and sigma_8 from a dark-matter field, by every estimator of its likelihood.

    The folder of results holds report.html (pictures, every estimator's contours over the truth, verdict, how to redo
    the run), summary.csv and verdict.txt of the recommended estimator, estimators.csv, posterior.zarr (parameters of
    all estimators, for xarray.open_datatree), run.json and observation.npz (for the resume command).

    Exit status: 0 converged, 3 not converged, 2 bad input, 130 interrupted (what was drawn is kept and reported).
    """
    from rich.console import Console

    console = Console(highlight=False)
    with speaking():
        from inference.density_estimators import chosen_names
        from inference.folder import refuse_output

        refuse_output(output, overwrite)
        names = chosen_names(estimators, noise_level is not None)
        console.print(f"Loading the prior {prior!r} and the observation", markup=False)
        fields_prior = load_prior(prior)
        truth = {name: x for name, x in (("Omega_m", omega_m), ("sigma_8", sigma_8)) if x is not None}
        observed = make_observation(seed, fields_prior, observation_file, pixel_mpc_h, map_index, truth, noise_level)
    settings = {
        "problem": "density_fields",
        "prior": str(Path(prior).resolve()) if Path(prior).is_dir() else prior,
        "prior_hash": fields_prior.fingerprint(),
        "engine": engine.value,
        "estimators": list(names),
        "noisy": noise_level is not None,
        "num_chains": num_chains,
        "num_samples": num_samples,
        "seed": seed,
        "command": command_line(),
    }
    _run(output, settings, observed, fields_prior, quiet, overwrite=overwrite)


def resume(output: Path, settings: dict[str, Any], quiet: bool) -> NoReturn:
    """Continue a run from what its folder holds; ends the command like `density_fields`."""
    from inference.folder import read_record
    from models.density_fields.observation import DensityFields

    with speaking():
        kept = read_record(output).observation
        fields_prior = load_prior(settings["prior"])
        if fields_prior.fingerprint() != settings["prior_hash"]:
            raise ValueError(
                f"the prior {settings['prior']!r} is not the one that the run in '{output}' was begun with"
            )
    observed = DensityFields(kept.y, kept.truth, kept.description, kept.notes)
    _run(output, settings, observed, fields_prior, quiet, resuming=True)


def _run(
    output: Path,
    settings: dict[str, Any],
    observed: DensityFields,
    fields_prior: bd.DiffusionModel,
    quiet: bool,
    overwrite: bool = False,
    resuming: bool = False,
) -> NoReturn:
    """Sample, report, and leave with the exit status of the run."""
    from rich.console import Console

    from inference.density_report import bounds_of
    from inference.density_study import run_study
    from inference.dust_cmb import conclude
    from inference.folder import MissingSettingError, interruption

    console = Console(highlight=False)
    console.print(f"Observation: {observed.description}", markup=False, soft_wrap=True)
    with speaking(lambda: interruption(output), bad=(FileExistsError, BlockingIOError, MissingSettingError)):
        data = run_study(
            observed,
            fields_prior,
            settings,
            output,
            overwrite=overwrite,
            resuming=resuming,
            progress=not quiet,
            say=lambda line: console.print(line, markup=False, soft_wrap=True),
        )
    raise typer.Exit(conclude(console, data, output, bounds_of(settings["noisy"])))


def load_prior(prior: str) -> bd.DiffusionModel:
    """The conditional prior of a name or a folder, checked for the study.

    Raises:
        FileNotFoundError: it is neither, or has not been trained yet.
        ValueError: the model is damaged or is no prior of dark-matter fields.
    """
    import bayesdiff as bd
    from models.density_fields.observation import check_prior
    from models.density_fields.prior import NAME

    known = bd.list_pretrained()
    if prior not in known and not Path(prior).is_dir():
        if prior == NAME:
            raise FileNotFoundError(
                f"the prior '{NAME}' has not been trained yet: run 'python -m models simulate' and 'python -m models "
                "train density_fields', or give --prior FOLDER of a saved model"
            )
        raise FileNotFoundError(f"--prior must be {NAME} or the folder of a saved model, got {prior!r}")
    model = bd.load_pretrained(prior) if prior in known else bd.load_model(prior)
    check_prior(model)
    return model


def make_observation(
    seed: int,
    fields_prior: bd.DiffusionModel,
    observation_file: str | None = None,
    pixel_mpc_h: float | None = None,
    map_index: int | None = None,
    truth: dict[str, float] | None = None,
    noise_level: float | None = None,
) -> DensityFields:
    """The observation that the options describe.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: options that do not go together, or a file, map or parameter that does not fit.
    """
    from bayesdiff.diffusion.refusals import refuse_outside
    from models.density_fields.model import NOISE_BOUNDS
    from models.density_fields.observation import add_noise, read_fields, simulate_fields
    from models.density_fields.sets import FIDUCIAL

    truth = truth or {}
    if noise_level is not None:
        refuse_outside("--noise-level", noise_level, *NOISE_BOUNDS, "its prior")
    if observation_file is not None:
        if len(truth) == 1:
            raise ValueError(
                f"of a file the truth is Omega_m and sigma_8 or unknown, got {next(iter(truth))} alone: give both "
                "--omega-m and --sigma-8, or neither"
            )
        observed = read_fields(observation_file, fields_prior, pixel_mpc_h, map_index, truth)
    else:
        if pixel_mpc_h is not None:
            raise ValueError("--pixel-mpc-h is that of --observation FILE, and no file was given")
        omega_m, sigma_8 = (FIDUCIAL | truth).values()
        observed = simulate_fields(seed, fields_prior, omega_m, sigma_8, map_index or 0)
    return observed if noise_level is None else add_noise(seed, observed, noise_level)
