"""Training on the command line: ``python -m models`` lists what can be trained."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

PRETRAINED = Path(__file__).resolve().parents[1] / "bayesdiff" / "pretrained"

app = typer.Typer(
    name="python -m models",
    help="Train what the package ships: the diffusion priors and the CMB emulator; simulate what priors learn from.",
    pretty_exceptions_show_locals=False,
    add_completion=False,
)


class Recipe(StrEnum):
    """Priors with a training recipe."""

    dust_cmb = "dust_cmb"
    mass_mapping = "mass_mapping"


NAMES = {Recipe.dust_cmb: "dust-cmb-64", Recipe.mass_mapping: "kappa-64"}


@app.command("train")
def train(
    recipe: Annotated[Recipe, typer.Argument(help="Which prior.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.", show_default="the recipe's")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoints and progress.jsonl; a training found there continues.",
            show_default="build/training/ and the prior's name",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the model.", show_default="bayesdiff/pretrained/ and that name")
    ] = None,
) -> None:
    """Train a prior, measure its quality on held-out maps, and write weights and card.

    Prints the loss per band of log-SNR now and then (1 is the Wiener filter). It may be interrupted and started again.
    """
    from dataclasses import replace
    from importlib import import_module

    prior = import_module(f"models.{recipe.value}.prior")
    folder = Path("build/training") / NAMES[recipe] if folder is None else folder
    output = PRETRAINED / NAMES[recipe] if output is None else output
    settings = prior.SETTINGS if steps is None else replace(prior.SETTINGS, steps=steps)
    try:
        denoiser = prior.train_denoiser(settings, folder)
        prior.publish(denoiser, settings, output)
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo(f"Interrupted: the same command continues from the last checkpoint in {folder}.", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"wrote {output}")


@app.command("emulator")
def emulator(
    table: Annotated[
        Path, typer.Option(help="Folder of the CAMB spectra; those found there are not computed again.")
    ] = Path("build/camb"),
    output: Annotated[Path | None, typer.Option(help="Weight file.", show_default="the package's")] = None,
    processes: Annotated[int, typer.Option(min=1, help="CAMB processes.")] = 2,
    measure: Annotated[
        bool, typer.Option("--measure", help="Keep the weights, only measure their error anew.")
    ] = False,
) -> None:
    """Rebuild the CMB emulator from CAMB spectra."""
    from bayesdiff.cosmology import build_emulator

    arguments = ["--table", str(table), "--processes", str(processes)]
    arguments += ["--output", str(output)] if output is not None else []
    build_emulator.main(arguments + (["--measure"] if measure else []))


class Simulations(StrEnum):
    """Sets of simulations, named as those of CAMELS."""

    LH = "LH"
    CV = "CV"
    one_parameter = "1P"


@app.command("simulate")
def simulate(
    sets: Annotated[
        list[Simulations] | None,
        typer.Option("--set", help="LH, CV or 1P; may be given more than once.", show_default="all three"),
    ] = None,
    num: Annotated[
        int | None, typer.Option(min=1, help="Simulations of LH or CV.", show_default="LH 800, CV 30; 1P has 22")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Maps, parameters and spectra; simulations found there are not computed again.")
    ] = Path("build/density_fields"),
    processes: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
) -> None:
    """Simulate maps of the dark matter density, with JaxPM, in the layout of the CAMELS Multifield dataset.

    It may be interrupted and started again.
    """
    from models.density_fields.sets import generate, simulation_set

    sets = sets or list(Simulations)
    if num is not None and len(sets) != 1:
        typer.echo(f"Error: --num needs one --set, got {', '.join(sets)}", err=True)
        raise typer.Exit(2)
    try:
        for name in sets:
            generate(simulation_set(name.value, num), folder, processes, say=typer.echo)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo(f"Interrupted: the same command continues from the simulations in {folder}.", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"wrote {folder}")


@app.callback(invoke_without_command=True)
def commands(context: typer.Context) -> None:
    """Without a command: say which there are."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


if __name__ == "__main__":
    app(prog_name="python -m models")
