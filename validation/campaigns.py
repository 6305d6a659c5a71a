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
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

from inference.exits import INTERRUPTED, speaking

if TYPE_CHECKING:
    from distributed import Client

PASSED, FAILED = 0, 1
FOLDER = Path("runs/sbc")


class Problem(NamedTuple):
    """What is calibrated.

    Attributes:
        model: NumPyro model, which takes its data as an argument.
        about: one sentence for the page.
        quantities: further quantities, see :func:`bayesdiff.calibration.sbc`.
        parameters: that a grid is laid over.
    """

    model: Callable[..., Any]
    about: str
    quantities: dict[str, Any]
    parameters: tuple[str, ...] = ("H0", "omega_b", "sigma")


class Name(StrEnum):
    """The models that can be calibrated."""

    linear_gaussian = "linear_gaussian"
    dust_cmb = "dust_cmb"
    gaussian_fields = "gaussian_fields"
    density_fields = "density_fields"
    denoising = "denoising"


class Engine(StrEnum):
    """The algorithms that can be."""

    nuts = "nuts"
    hmc = "hmc"
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
    Engine.gibbs: Lengths(4, 500),
    Engine.surrogate: Lengths(4, 250),
    Engine.grid: Lengths(1, 400),
}
"""Lengths by engine: the effective draws of a chain differ, those of a grid are independent."""
ALGORITHMS = {
    Engine.nuts: "NUTS",
    Engine.hmc: "HMC",
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
            help="linear_gaussian (the analytic twin), dust_cmb, gaussian_fields, density_fields or denoising.",
        ),
    ],
    engine: Annotated[Engine, typer.Option(help="Algorithm on trial.")] = Engine.nuts,
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
    output: Annotated[Path | None, typer.Option(help="Folder.", show_default="runs/sbc/MODEL-ENGINE")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Simulate data sets of known truth from a model, infer each, and test where the truth lies.

    Exit status: 0 calibrated, 1 not, 2 bad input, 130 interrupted (the same command goes on).
    """
    import jax

    import bayesdiff as bd

    console = Console(highlight=False)
    folder = output or FOLDER / f"{name.value}-{engine.value}"
    with speaking("Interrupted before a simulation was finished."), cluster(workers, scheduler) as client:
        problem = make_problem(name)
        study = bd.calibration.sbc(
            jax.random.key(seed),
            problem.model,
            algorithm=make_engine(engine, problem.parameters),
            num_simulations=num,
            num_chains=num_chains or CAMPAIGNS[engine].num_chains,
            num_samples=num_samples or CAMPAIGNS[engine].num_samples,
            num_draws=num_draws,
            quantities=problem.quantities,
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


def make_problem(name: Name) -> Problem:
    """The model of a name."""
    import bayesdiff as bd
    from models.dust_cmb.model import make_model
    from models.linear_gaussian import make_twin

    if name is Name.linear_gaussian:
        model = make_model(make_twin())
        about = "Gaussian dust of 32 x 32 pixels of 8 arcmin and a CMB of unknown cosmology, likelihood in closed form."
        return Problem(model, about, {"log_likelihood": bd.calibration.log_likelihood(model)})
    if name is Name.dust_cmb:
        about = "Dust drawn from the shipped prior dust-cmb-64, a CMB of unknown cosmology, 64 x 64 pixels of 8 arcmin."
        return Problem(make_model(bd.load_pretrained("dust-cmb-64")), about, {})
    problem: Any = import_module(f"models.{name.value}.model")
    bound = bd.Elbo(num_times=32, num_noise=1)
    if name is Name.denoising:
        about = "Dust of 64 x 64 pixels drawn from the shipped prior dust-64, in white noise of unknown level."
        return Problem(problem.make_model(bd.load_pretrained("dust-64"), bound), about, {}, ("noise_level",))
    shipped = f"{name.value.replace('_', '-')}-64"
    prior = bd.load_pretrained(shipped)
    about = f"Fields of 64 x 64 pixels drawn from the shipped conditional prior {shipped}, its parameters unknown."
    return Problem(problem.make_model(prior, bound), about, {}, prior.context_names)


def make_engine(engine: Engine, parameters: tuple[str, ...] = ("H0", "omega_b", "sigma")) -> Any:
    """The algorithm of a name, with the settings of campaigns."""
    import bayesdiff as bd

    algorithms: dict[Engine, Any] = {
        Engine.nuts: bd.NUTS(num_warmup=400),
        Engine.hmc: bd.HMC(num_warmup=400),
        # Where the field hides most of the noise only the shifts get anywhere.
        Engine.gibbs: bd.GibbsDiffusion(num_parameter_steps=3, num_shifts=8),
        Engine.surrogate: bd.MarginalSurrogate(),
        Engine.grid: bd.Grid(dict.fromkeys(parameters, 24)),
    }
    return algorithms[engine]
