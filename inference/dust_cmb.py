"""Blind separation of dust and CMB on the command line: ``python -m inference dust_cmb``."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from inference.exits import CONVERGED, INTERRUPTED, NOT_CONVERGED, command_line, speaking

if TYPE_CHECKING:
    import jax

    import bayesdiff as bd
    from models.dust_cmb.observation import Observation

_OBSERVATION, _TRUTH = "Observation (default: simulated from the prior)", "Truth of the simulated part"
_INFERENCE, _OUTPUT = "Inference", "Output"


class Engine(StrEnum):
    """How the posterior is sampled."""

    surrogate = "surrogate"
    gibbs = "gibbs"
    nuts = "nuts"


def dust_cmb(
    map_file: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="FILE[:ARRAY]",
            help="Dust map (.npy, .npz or FITS): a patch of it is averaged to the model's pixels, standardised by the "
            "whole map and mixed with a simulated CMB and noise. Needs --pixel-arcmin.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    pixel_arcmin: Annotated[
        float | None,
        typer.Option(
            help="Side of a pixel of the file, in arcmin; a FITS header may say it instead.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    patch: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Which of the disjoint patches of the map, counted along its rows from 0.",
            show_default="0",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    observation_file: Annotated[
        str | None,
        typer.Option(
            "--observation",
            metavar="FILE[:ARRAY]",
            help="A mixture as it is, in units of the dust standard deviation, of the model's shape and pixel size.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    H0: Annotated[  # noqa: N803
        float | None,
        typer.Option(
            "--H0",
            help="True H0 of the simulated CMB, in km/s/Mpc.",
            show_default="67.4",
            rich_help_panel=_TRUTH,
        ),
    ] = None,
    omega_b: Annotated[
        float | None,
        typer.Option(help="True omega_b of the simulated CMB.", show_default="0.0224", rich_help_panel=_TRUTH),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            help="True rms of the CMB in units of the dust standard deviation.",
            show_default="0.6",
            rich_help_panel=_TRUTH,
        ),
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            metavar="NAME | twin | PATH",
            help="Dust prior: a trained one by name, 'twin' (Gaussian, in closed form, no network), or the folder of "
            "a saved model.",
            rich_help_panel=_INFERENCE,
        ),
    ] = "dust-cmb-64",
    engine: Annotated[
        Engine,
        typer.Option(
            help="surrogate: NUTS on the marginal likelihood of the twin plus an interpolated correction; gibbs: "
            "field and parameters in turn; nuts: NUTS on the marginal likelihood itself.",
            rich_help_panel=_INFERENCE,
        ),
    ] = Engine.surrogate,
    num_chains: Annotated[int, typer.Option(min=1, help="Chains.", rich_help_panel=_INFERENCE)] = 4,
    num_samples: Annotated[int, typer.Option(min=1, help="Draws of each chain.", rich_help_panel=_INFERENCE)] = 1000,
    num_fields: Annotated[
        int, typer.Option(min=0, help="Draws of the maps, over all chains.", rich_help_panel=_INFERENCE)
    ] = 200,
    num_replicates: Annotated[
        int,
        typer.Option(
            min=0,
            help="Data sets drawn from the posterior and compared with the observation; each costs one prior draw.",
            rich_help_panel=_INFERENCE,
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of every random number.", rich_help_panel=_INFERENCE)] = 0,
    output: Annotated[Path, typer.Option(help="Folder for the results.", rich_help_panel=_OUTPUT)] = Path("runs/demo"),
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace the results of an earlier run in that folder.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Separate one mixed map into dust and CMB, and infer H0, omega_b and the amplitude of the CMB with it.

    The folder of results holds report.html (pictures, verdict, how to redo the run),
    summary.csv, verdict.txt and posterior.zarr (parameters, maps and truth, for xarray.open_datatree),
    run.json and observation.npz (settings and data, for the resume command).

    Exit status: 0 converged, 3 not converged, 2 bad input, 130 interrupted (what was drawn is kept and reported).
    """
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"Loading the prior {prior!r} and the observation", markup=False)
    with speaking():
        import jax

        from inference.folder import refuse_output

        refuse_output(output, overwrite)
        dust = load_prior(prior)
        key = jax.random.fold_in(jax.random.key(seed), 1)
        truth = {
            name: value for name, value in (("H0", H0), ("omega_b", omega_b), ("sigma", sigma)) if value is not None
        }
        observation = make_observation(key, dust, map_file, observation_file, pixel_arcmin, patch, truth)
    console.print(f"Observation: {observation.description}", markup=False, soft_wrap=True)
    settings = {
        "problem": "dust_cmb",
        "prior": str(Path(prior).resolve()) if Path(prior).is_dir() else prior,
        "prior_hash": dust.fingerprint(),
        "engine": engine.value,
        "num_chains": num_chains,
        "num_samples": num_samples,
        "num_fields": num_fields,
        "num_replicates": num_replicates,
        "seed": seed,
        "command": command_line(),
    }
    _run(output, settings, observation, dust, quiet, overwrite=overwrite)


def resume(output: Path, settings: dict[str, Any], quiet: bool) -> NoReturn:
    """Continue a run from what its folder holds; ends the command like `dust_cmb`."""
    from inference.folder import read_record

    with speaking():
        observation = read_record(output).observation
        dust = load_prior(settings["prior"])
        if dust.fingerprint() != settings["prior_hash"]:
            raise ValueError(
                f"the prior {settings['prior']!r} is not the one that the run in '{output}' was begun with"
            )
    _run(output, settings, observation, dust, quiet, resuming=True)


def _run(
    output: Path,
    settings: dict[str, Any],
    observation: Observation,
    dust: bd.DiffusionModel,
    quiet: bool,
    overwrite: bool = False,
    resuming: bool = False,
) -> NoReturn:
    """Sample, report, and leave with the exit status of the run."""
    from rich.console import Console

    from inference.folder import MissingSettingError, interruption
    from inference.study import run_study
    from models.dust_cmb.model import PRIOR_BOUNDS, make_model
    from models.dust_cmb.observation import model_pixel_arcmin

    console = Console(highlight=False)
    with speaking(lambda: interruption(output), bad=(FileExistsError, BlockingIOError, MissingSettingError)):
        data = run_study(
            observation,
            make_model(dust),
            algorithm=_algorithm(Engine(settings["engine"])),
            num_chains=settings["num_chains"],
            num_samples=settings["num_samples"],
            num_fields=settings["num_fields"],
            num_replicates=settings["num_replicates"],
            seed=settings["seed"],
            pixel_arcmin=model_pixel_arcmin(dust),
            bounds=PRIOR_BOUNDS,
            title=f"Dust and CMB, {observation.description}",
            output=output,
            overwrite=overwrite,
            record=settings,
            resuming=resuming,
            attributes={name: settings[name] for name in ("command", "prior", "prior_hash")},
            progress=not quiet,
            say=lambda line: console.print(line, markup=False, soft_wrap=True),
        )
    raise typer.Exit(conclude(console, data, output, PRIOR_BOUNDS))


def conclude(console: Any, data: Any, output: Path, bounds: dict[str, tuple[float, float]]) -> int:
    """Print the table and the verdict; returns the exit status."""
    import bayesdiff as bd
    from inference.study import far_from_truth

    # As text of its own width: a table fitted to a narrow terminal loses its digits.
    table = bd.reporting.summary_text(bd.reporting.summary_table(data))
    console.print(table, markup=False, soft_wrap=True)
    judged = bd.reporting.verdict(data, bounds=bounds)
    console.print(
        f"{judged.sentence}\n", style={"good": "green", "caution": "yellow", "bad": "red"}[judged.level], markup=False
    )
    for line in far_from_truth(data):
        console.print(line, style="yellow", markup=False)
    console.print(f"Report: {output / 'report.html'}", markup=False, soft_wrap=True)
    if data.attrs["status"] == "interrupted":
        console.print(
            "The run was interrupted; what was drawn so far is in the report and in posterior.zarr. To continue: "
            f"python -m inference resume {output}",
            markup=False,
            soft_wrap=True,
        )
        return INTERRUPTED
    return CONVERGED if judged.converged else NOT_CONVERGED


def load_prior(prior: str) -> bd.DiffusionModel:
    """The dust prior of a name, ``twin`` or a folder, checked for the study.

    Raises:
        FileNotFoundError: it is neither a known name nor a folder.
        ValueError: the model is damaged or is no dust prior.
    """
    import bayesdiff as bd
    from models.dust_cmb.observation import check_dust_model, model_pixel_arcmin
    from models.linear_gaussian import make_twin

    if prior == "twin":
        return make_twin(64)
    known = tuple(bd.list_pretrained())
    if prior not in known and not Path(prior).is_dir():
        raise FileNotFoundError(
            f"--prior must be {', '.join((*known, 'twin'))} or the folder of a saved model, got {prior!r}"
        )
    dust = bd.load_pretrained(prior) if prior in known else bd.load_model(prior)
    check_dust_model(dust)
    model_pixel_arcmin(dust)
    return dust if dust.name == "dust" else replace(dust, name="dust")


def make_observation(
    key: jax.Array,
    dust: bd.DiffusionModel,
    map_file: str | None = None,
    observation_file: str | None = None,
    pixel_arcmin: float | None = None,
    patch: int | None = None,
    truth: dict[str, float] | None = None,
) -> Observation:
    """The observation that the options describe.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: options that do not go together, or a file, map or parameter that does not fit.
    """
    from models.dust_cmb.observation import model_pixel_arcmin, observe_map, read_observation, simulate_from_prior

    truth = truth or {}
    if map_file is not None and observation_file is not None:
        raise ValueError("give --map (dust to be mixed) or --observation (a mixture), not both")
    if patch is not None and map_file is None:
        raise ValueError("--patch chooses a patch of --map FILE, and no map was given")
    if observation_file is not None:
        if truth:
            given = ", ".join(f"--{name.replace('_', '-')}" for name in truth)
            raise ValueError(f"{given}: the truth of a mixture from a file cannot be chosen; leave it out")
        return read_observation(observation_file, dust, pixel_arcmin)
    if map_file is not None:
        return observe_map(key, map_file, dust, pixel_arcmin, patch or 0, **truth)
    expected = model_pixel_arcmin(dust)
    if pixel_arcmin is not None and abs(pixel_arcmin / expected - 1.0) > 1e-3:
        raise ValueError(
            f"--pixel-arcmin must be the model's {expected:g} arcmin for a simulated mixture, got {pixel_arcmin:g}"
        )
    return simulate_from_prior(key, dust, **truth)


def _algorithm(engine: Engine) -> Any:
    import bayesdiff as bd

    return {Engine.surrogate: bd.MarginalSurrogate, Engine.gibbs: bd.GibbsDiffusion, Engine.nuts: bd.NUTS}[engine]()
