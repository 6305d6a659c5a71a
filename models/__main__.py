"""Training on the command line: ``python -m models`` lists what can be trained."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

PRETRAINED = Path(__file__).resolve().parents[1] / "bayesdiff" / "pretrained"

app = typer.Typer(
    name="python -m models",
    help="Train what the package ships: the diffusion priors and the CMB emulator.",
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


@app.callback(invoke_without_command=True)
def commands(context: typer.Context) -> None:
    """Without a command: say which there are."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


if __name__ == "__main__":
    app(prog_name="python -m models")
