"""Calibration campaigns on the command line: ``python -m validation sbc dust_cmb --engine gibbs --num 300``.

A campaign is kept in one folder: ``study.sbc``, from which the same command continues and extends it, and the page that
says what it found. What counts as calibrated is decided in one place, `bayesdiff.calibration.Sbc.passes`: every test of
the ranks at a familywise level of 1 %, a posterior for every simulation, and at most 5 % of them with chains that
failed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

from inference.exits import INTERRUPTED, speaking
from validation.problems import Asked, Name, Problem, make_problem

if TYPE_CHECKING:
    from distributed import Client

PASSED, FAILED = 0, 1
FOLDER = Path("runs/sbc")


class Engine(StrEnum):
    """The algorithms that can be."""

    nuts = "nuts"
    hmc = "hmc"
    microcanonical = "microcanonical"
    gibbs = "gibbs"
    surrogate = "surrogate"
    grid = "grid"


class Lengths(NamedTuple):
    """Chains on each simulation, and draws of each chain."""

    num_chains: int
    num_samples: int


CAMPAIGNS = {
    Engine.nuts: Lengths(4, 700),
    Engine.hmc: Lengths(4, 400),
    Engine.microcanonical: Lengths(4, 700),
    Engine.gibbs: Lengths(4, 500),
    Engine.surrogate: Lengths(4, 250),
    Engine.grid: Lengths(1, 400),
}
"""Lengths by engine: the effective draws of a chain differ, those of a grid are independent."""
OF_FIELDS = {Engine.nuts: Lengths(4, 400), Engine.hmc: Lengths(4, 700), Engine.gibbs: Lengths(4, 1000)}
"""Lengths where a whole field is sampled."""
ALGORITHMS = {
    Engine.nuts: "NUTS",
    Engine.hmc: "HMC",
    Engine.microcanonical: "AdjustedMCLMC",
    Engine.gibbs: "GibbsDiffusion",
    Engine.surrogate: "MarginalSurrogate",
    Engine.grid: "Grid",
}
_BY_ENGINE = "by engine"


def sbc(
    name: Annotated[
        Name,
        typer.Argument(
            metavar="MODEL",
            help=f"{', '.join(Name)} (linear_gaussian is the analytic twin).",
        ),
    ],
    engine: Annotated[Engine, typer.Option(help="Algorithm on trial.")] = Engine.nuts,
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="NAME | twin | PATH",
            help="Diffusion prior: a trained one by name, 'twin' (a Gaussian field, no network), or the folder of a "
            "saved model.",
            show_default="that which ships for the model",
        ),
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="Simulations; more than last time extends the campaign.")] = 300,
    num_chains: Annotated[int | None, typer.Option(min=1, help="Chains on each.", show_default=_BY_ENGINE)] = None,
    num_samples: Annotated[
        int | None, typer.Option(min=10, help="Draws of each chain.", show_default=_BY_ENGINE)
    ] = None,
    num_draws: Annotated[int, typer.Option(min=9, help="Draws that the truth is ranked among.")] = 99,
    seed: Annotated[int, typer.Option(min=0, help="Of every random number.")] = 0,
    workers: Annotated[
        int,
        typer.Option(min=0, help="Run on a Dask cluster of so many processes of this machine.", show_default="none"),
    ] = 0,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the Dask cluster with this scheduler.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder.", show_default="runs/sbc/MODEL-ENGINE[-PRIOR]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Simulate data sets of known truth from a model, infer each, and test where the truth lies.

    Exit status: 0 calibrated, 1 not, 2 bad input, 130 interrupted (the same command goes on).
    """
    import jax

    import bayesdiff as bd

    console = Console(highlight=False)
    of_prior = "" if prior is None else f"-{Path(prior).name}"
    folder = output or FOLDER / f"{name.value}-{engine.value}{of_prior}"
    with speaking("Interrupted before a simulation was finished."), cluster(workers, scheduler) as client:
        problem = make_problem(name, Asked(prior, gibbs=engine is Engine.gibbs))
        lengths = (CAMPAIGNS | OF_FIELDS if problem.has_field else CAMPAIGNS)[engine]
        study = bd.calibration.sbc(
            jax.random.key(seed),
            problem.model,
            algorithm=make_engine(engine, problem),
            num_simulations=num,
            num_chains=num_chains or lengths.num_chains,
            num_samples=num_samples or lengths.num_samples,
            num_draws=num_draws,
            parameters=problem.ranked,
            quantities=problem.quantities,
            simulator=problem.simulator,
            store=folder / "study.sbc",
            progress=not quiet,
            client=client,
        )
    notes = (problem.about, f"python -m validation {' '.join(sys.argv[1:])}")
    page = bd.reporting.write_calibration_report(
        study, folder, title=f"Calibration of {name.value} by {ALGORITHMS[engine]}", notes=notes
    )
    console.print(study.table().round(3).to_string(), markup=False)
    console.print(f"{study.verdict()}\nReport: {page}", markup=False, soft_wrap=True)
    if study.attributes["status"] != "complete":
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(PASSED if study.passes() else FAILED)


@contextmanager
def cluster(workers: int, scheduler: str | None) -> Iterator[Client | None]:
    """A client of the Dask cluster that the options ask for, if they do.

    Raises:
        ValueError: both are given, `distributed` is not installed, or nobody answers at the address.
    """
    if not workers and scheduler is None:
        yield None
        return
    if workers and scheduler is not None:
        raise ValueError("give --workers (processes of this machine) or --scheduler (a cluster that runs), not both")
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("clusters need the package 'distributed': pip install 'bayesdiff[cluster]'") from None
    if scheduler is None:
        with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="") as local, Client(local) as c:
            yield c
        return
    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {scheduler!r}: {error}") from None
    with client:
        yield client


def make_engine(engine: Engine, problem: Problem) -> Any:
    """The algorithm of a name, with the settings of campaigns."""
    import bayesdiff as bd

    field = problem.has_field
    # A field is whitened: no two of its values hang together.
    chains: dict[str, Any] = {"num_warmup": 300 if field else 400, "dense_mass": not field}
    length = 1.5 if problem.trajectory_length is None else problem.trajectory_length
    algorithms: dict[Engine, Callable[[], Any]] = {
        Engine.nuts: lambda: bd.NUTS(**chains),
        Engine.hmc: lambda: bd.HMC(**chains),
        Engine.microcanonical: lambda: bd.AdjustedMCLMC(num_warmup=chains["num_warmup"], trajectory_length=length),
        # Where the field hides most of the noise only the shifts get anywhere.
        Engine.gibbs: lambda: (
            bd.GibbsDiffusion(num_warmup=300, num_diffusion_steps=8)
            if field
            else bd.GibbsDiffusion(num_parameter_steps=3, num_shifts=8)
        ),
        Engine.surrogate: bd.MarginalSurrogate,
        Engine.grid: lambda: bd.Grid(dict.fromkeys(problem.parameters, 24)),
    }
    return algorithms[engine]()
