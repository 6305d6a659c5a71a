"""Runs in which a whole field is sampled: their options, and the way from the settings to a report and an exit status.

A problem says in ``prepare(settings)`` what is observed, how it is sampled and how its result is written; the settings
are all that it takes to begin a run anew or to continue one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from inference.exits import CONVERGED, INTERRUPTED, NOT_CONVERGED, command_line, speaking
from inference.folder import RUNNING_STORE, clear_output, interruption, refuse_output, write_settings

if TYPE_CHECKING:
    import jax
    import xarray as xr

_INFERENCE, _OUTPUT = "Inference", "Output"


class Engine(StrEnum):
    """How the posterior is sampled."""

    microcanonical = "microcanonical"
    nuts = "nuts"


EngineOption = Annotated[
    Engine,
    typer.Option(
        help="microcanonical: adjusted microcanonical sampling; nuts: NUTS. Both sample the whole field, as unit "
        "normal values under the prior's probability flow.",
        rich_help_panel=_INFERENCE,
    ),
]
ChainsOption = Annotated[int, typer.Option(min=1, help="Chains.", rich_help_panel=_INFERENCE)]
WarmupOption = Annotated[int, typer.Option(min=20, help="Warm-up of each.", rich_help_panel=_INFERENCE)]
SamplesOption = Annotated[int, typer.Option(min=2, help="Draws of each chain.", rich_help_panel=_INFERENCE)]
TrajectoryOption = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Mean length of a microcanonical trajectory in posterior standard deviations: longer where many values "
        "move together, as with an unknown calibration.",
        rich_help_panel=_INFERENCE,
    ),
]
FlowStepsOption = Annotated[int, typer.Option(min=1, help="Steps of the probability flow.", rich_help_panel=_INFERENCE)]
SeedOption = Annotated[int, typer.Option(min=0, help="Of every random number.", rich_help_panel=_INFERENCE)]
OutputOption = Annotated[Path, typer.Option(help="Folder for the results.", rich_help_panel=_OUTPUT)]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the results of an earlier run there.", rich_help_panel=_OUTPUT)
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress bars.", rich_help_panel=_OUTPUT)]


class FieldRun(NamedTuple):
    """What a run does.

    Attributes:
        description: of the observation, a phrase.
        prior_hash: fingerprint of the prior.
        sample: from the store and whether to show progress bars to the result.
        write: results to the folder.
    """

    description: str
    prior_hash: str
    sample: Callable[[Path, bool], xr.DataTree]
    write: Callable[[xr.DataTree, Path], None]


def run_field(
    output: Path,
    settings: dict[str, Any],
    prepare: Callable[[dict[str, Any]], FieldRun],
    *,
    quiet: bool,
    overwrite: bool = False,
    resuming: bool = False,
) -> NoReturn:
    """Sample, write, judge, and leave with the exit status of the run."""
    from rich.console import Console

    import bayesdiff as bd

    def interrupted() -> str:
        words = interruption(output)
        if begun and not (output / RUNNING_STORE).exists():
            clear_output(output)
        return words

    begun = False
    console = Console(highlight=False)
    with speaking(interrupted):
        if not resuming:
            refuse_output(output, overwrite)
        run = prepare(settings)
        if resuming and run.prior_hash != settings["prior_hash"]:
            raise ValueError(
                f"the prior {settings['prior']!r} is not the one that the run in '{output}' was begun with"
            )
        if not resuming:
            settings = {**settings, "prior_hash": run.prior_hash, "command": command_line()}
            clear_output(output)
            begun = True
            write_settings(output, settings)
        console.print(f"Observation: {run.description}; prior: {settings['prior']}", markup=False, soft_wrap=True)
        data = run.sample(output / RUNNING_STORE, not quiet)
    data.attrs.update({name: settings[name] for name in ("command", "prior", "prior_hash")})
    data.attrs["observation"] = run.description
    run.write(data, output)
    judged = bd.reporting.verdict(data)
    console.print(f"{judged.sentence}\nReport: {output / 'report.html'}", markup=False, soft_wrap=True)
    if data.attrs["status"] != "complete":
        console.print(f"Interrupted; to continue: python -m inference resume {output}", markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(CONVERGED if judged.converged else NOT_CONVERGED)


def sample_field(
    key: jax.Array,
    model: Callable[..., Any],
    y: Any,
    *,
    algorithm: Any,
    num_chains: int,
    num_samples: int,
    keep: tuple[str, ...],
    store: Path | None = None,
    progress: bool = True,
    truth: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """``bd.sample`` in memory; what an interruption left is in the attribute ``status`` rather than in a warning."""
    import bayesdiff as bd
    from inference.study import truth_group

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="interrupted", category=UserWarning)
        data = bd.sample(
            key,
            model,
            y,
            algorithm=algorithm,
            num_chains=num_chains,
            num_samples=num_samples,
            keep=keep,
            store=store,
            progress=progress,
        ).load()
    if truth is not None:
        data["truth"] = truth_group(truth)
    return data


def make_algorithm(settings: Mapping[str, Any]) -> Any:
    """The sampler of the settings ``engine``, ``num_warmup`` and ``trajectory_length``."""
    import bayesdiff as bd

    if Engine(settings["engine"]) is Engine.nuts:
        return bd.NUTS(num_warmup=settings["num_warmup"], dense_mass=False)
    return bd.AdjustedMCLMC(num_warmup=settings["num_warmup"], trajectory_length=settings["trajectory_length"])


def field_draws(data: xr.DataTree, name: str) -> Any:
    """Draws of a field of all chains, (num, 1, H, W)."""
    draws = data["posterior"].to_dataset()[name].transpose("chain", "draw", ...).values
    return draws.reshape(-1, *draws.shape[2:])
