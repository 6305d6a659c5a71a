"""Training on the command line: ``python -m models`` lists what can be trained."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

PRETRAINED = Path(__file__).resolve().parents[1] / "bayesdiff" / "pretrained"

app = typer.Typer(
    name="python -m models",
    help="Train what ships: diffusion priors, baselines and the CMB emulator; simulate what they learn from.",
    pretty_exceptions_show_locals=False,
    add_completion=False,
)


class Recipe(StrEnum):
    """What has a training recipe."""

    dust_cmb = "dust_cmb"
    mass_mapping = "mass_mapping"
    gaussian_fields = "gaussian_fields"
    density_fields = "density_fields"
    density_baselines = "density_baselines"
    dust = "dust"
    dust_shapes = "dust_shapes"
    dark_matter = "dark_matter"
    matter = "matter"
    cib_tsz = "cib_tsz"
    cib = "cib"


NAMES = {
    Recipe.dust_cmb: "dust-cmb-64",
    Recipe.mass_mapping: "kappa-64",
    Recipe.gaussian_fields: "gaussian-fields-64",
    Recipe.density_fields: "density-fields-64",
    Recipe.density_baselines: "density-baselines",
    Recipe.dust: "dust-64",
    Recipe.dust_shapes: "dust-shapes-64",
    Recipe.dark_matter: "dark-matter-64",
    Recipe.matter: "matter-64",
    Recipe.cib_tsz: "cib-tsz-64",
    Recipe.cib: "cib-64",
}
KINDS = {
    Recipe.dust: "denoising.prior",
    Recipe.dust_shapes: "denoising.prior",
    Recipe.matter: "denoising.prior",
    Recipe.cib_tsz: "cib_tsz.prior",
    Recipe.cib: "cib_tsz.prior",
}
"""Recipes for priors of several kinds, and where."""
BASELINES = Path(__file__).parent / "density_fields" / "baselines.safetensors"

OPTIONS = {
    "start": (Recipe.density_fields,),
    "maps": (Recipe.density_fields, Recipe.dark_matter, Recipe.cib_tsz, Recipe.cib),
    "size": (Recipe.density_fields,),
    "suite": (Recipe.dark_matter,),
}
"""Recipes that an option is for."""


@app.command("train")
def train(
    recipe: Annotated[Recipe, typer.Argument(help="Which prior, or the baselines of density_fields.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.", show_default="the recipe's")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoints and progress.jsonl; a training found there continues.",
            show_default="build/training/ and the prior's name",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the model, or file of the baselines.",
            show_default="bayesdiff/pretrained/ and that name, or models/density_fields/baselines.safetensors",
        ),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Folder of a density_fields model whose network the training starts from.")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            help="Folder of maps in the layout of CAMELS, for density_fields and dark_matter; of mocks, or a file of "
            "patches, for cib_tsz and cib.",
            show_default="build/density_fields, build/cib_tsz",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Whose Mcdm and Mstar maps of that folder, for dark_matter: e.g. IllustrisTNG, SIMBA or Astrid.",
            show_default="JaxPM-power",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=8, help="Pixels per side, for density_fields: finer maps are averaged.", show_default="64"),
    ] = None,
) -> None:
    """Train a prior or baselines, measure their quality on held-out maps, and write weights and card.

    Prints the loss now and then, of a prior per band of log-SNR (1 is the Wiener filter). It may be interrupted and
    started again.
    """
    from dataclasses import replace
    from importlib import import_module

    from bayesdiff.diffusion.model import load_model

    for option, value in {"start": start, "maps": maps, "size": size, "suite": suite}.items():
        if value is not None and recipe not in OPTIONS[option]:
            known = ", ".join(OPTIONS[option])
            typer.echo(f"Error: --{option} is for {known}, got {recipe.value}", err=True)
            raise typer.Exit(2)
    of_maps = {"folder": maps, "size": size, "suite": suite}
    of_maps = {name: value for name, value in of_maps.items() if value is not None}
    name = NAMES[recipe] if size is None else f"density-fields-{size}"
    baselines, several = recipe is Recipe.density_baselines, recipe in KINDS
    folders = {Recipe.density_baselines: "density_fields.baselines"}
    folders |= KINDS
    module = import_module(f"models.{folders.get(recipe, f'{recipe.value}.prior')}")
    folder = Path("build/training") / name if folder is None else folder
    output = (BASELINES if baselines else PRETRAINED / name) if output is None else output
    settings = module.SETTINGS if steps is None else replace(module.SETTINGS, steps=steps)
    try:
        kind = (getattr(module, recipe.value.upper()),) if several else ()
        arguments = () if start is None else (load_model(start).denoiser,)
        run = module.train_baselines if baselines else module.train_denoiser
        trained = run(*kind, settings, folder, *arguments, **of_maps)
        module.publish(*kind, trained, settings, output, **of_maps)
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo(f"Interrupted: the same command continues from the last checkpoint in {folder}.", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"wrote {output}")


@app.command("measure")
def measure(
    model: Annotated[Path, typer.Argument(help="Folder of the prior.", show_default="the one that ships")] = PRETRAINED
    / "density-fields-64",
    maps: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the maps that it was trained on.", show_default="build/density_fields, build/cib_tsz"
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Suite of those maps, for dark_matter.", show_default="JaxPM-power"),
    ] = None,
) -> None:
    """Measure a prior of density_fields, of dark_matter or of foregrounds anew, written into its card.

    Of the first errors, strata and exponent of its bound, of the second the ends of its schedule, of the last rescaling
    and quality of its draws.
    """
    from bayesdiff.diffusion.model import load_model
    from models.cib_tsz import prior as foregrounds
    from models.cib_tsz.scale import ENTRY
    from models.dark_matter import prior as dark_matter
    from models.density_fields import prior as density_fields

    given = () if maps is None else (maps,)
    try:
        entries = load_model(model).card.entries
        if suite is not None and "stars" not in entries:
            raise ValueError(f"--suite is for a model of dark_matter, '{model}' is none")
        if "stars" in entries:
            of_maps = {"folder": maps, "suite": suite}
            chosen: Any = {name: value for name, value in of_maps.items() if value is not None}
            schedule: Any = dark_matter.measure(model, **chosen).schedule
            result = f"gamma from {schedule.gamma_min:.2f} to {schedule.gamma_max:.2f}"
        elif ENTRY in entries:
            card = foregrounds.measure(model, *given).card.entries
            factors = ", ".join(f"{x:.3f}" for x in card["rescaling"]["factors"])
            result = f"factors of rescaling {factors}"
        else:
            card = density_fields.measure(model, *(given or (Path("build/density_fields"),))).card.entries
            low, high = card["bound_exponent_interval"]
            result = f"exponent {card['bound_exponent']:.4f} ({low:.4f} to {high:.4f})"
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{result}; wrote {model}")


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
        int | None, typer.Option(min=1, help="Simulations of LH or CV.", show_default="LH 800, CV 300; 1P has 22")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Maps, parameters and spectra; simulations found there are not computed again.")
    ] = Path("build/density_fields"),
    processes: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
    stars: Annotated[
        bool, typer.Option("--stars", help="Stars in these simulations instead, by three recipes; LH by default.")
    ] = False,
) -> None:
    """Simulate maps of the dark matter density, with JaxPM, in the layout of the CAMELS Multifield dataset.

    It may be interrupted and started again.
    """
    from models.dark_matter import sets as stellar
    from models.density_fields.sets import generate, simulation_set

    generate = stellar.generate if stars else generate
    sets = sets or ([Simulations.LH] if stars else list(Simulations))
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


@app.command("mock")
def mock(
    num: Annotated[int, typer.Option(min=6, help="Mocks; the last sixth is held out.")] = 384,
    folder: Annotated[Path, typer.Option(help="Maps; those found there are not made again.")] = Path("build/cib_tsz"),
    seed: Annotated[int, typer.Option(min=0, help="Of every random number.")] = 0,
) -> None:
    """Make mock skies of CIB and tSZ for the recipes cib_tsz and cib; minutes on one core.

    It may be interrupted and started again.
    """
    from models.cib_tsz.data import generate

    try:
        generate(num, folder, seed, say=typer.echo)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo(f"Interrupted: the same command continues from the mocks in {folder}.", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"wrote {folder}")


@app.command("agora")
def agora(
    cib: Annotated[Path, typer.Option(help="HEALPix map of the CIB at 150 GHz.")],
    tsz: Annotated[Path | None, typer.Option(help="HEALPix map of Compton y, for train cib_tsz.")] = None,
    cib_95: Annotated[Path | None, typer.Option(help="CIB at 95 GHz, for train cib.")] = None,
    cib_857: Annotated[Path | None, typer.Option(help="CIB at 857 GHz, for train cib.")] = None,
    clusters: Annotated[
        Path | None,
        typer.Option(
            help="CSV of clusters to mask: longitude and latitude in degrees, m500 in solar masses, "
            "redshift; its first line names them.",
            show_default="none are masked",
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="File of patches, for train --maps.")] = Path("build/agora.npz"),
    unit: Annotated[str, typer.Option(help="Of the CIB: Jy/sr, MJy/sr, K_CMB or muK_CMB.")] = "Jy/sr",
    coordinates: Annotated[str, typer.Option(help="Of all maps and clusters: C, G or E.")] = "C",
    unsaid: Annotated[
        str | None, typer.Option(help="Coordinates of a map whose header says none.", show_default="refuse it")
    ] = None,
    separation: Annotated[float, typer.Option(min=0.1, help="Between patches, in degrees.")] = 2.2,
    latitude: Annotated[
        float, typer.Option(min=0.0, max=90.0, help="Least distance from the equator, in degrees.")
    ] = 0.0,
) -> None:
    """Cut flat patches out of HEALPix maps, such as those of Agora, sources above 2 mJy at 150 GHz masked.

    CIB and tSZ at 150 GHz, or the CIB at 95, 150 and 857 GHz.
    """
    from models.cib_tsz.agora import (
        cluster_mask,
        cut_patches,
        patch_centres,
        read_clusters,
        read_map,
        source_mask,
        write_patches,
    )
    from models.cib_tsz.prior import CIB, CIB_TSZ

    frequencies = (cib_95, cib_857)
    if (tsz is None) == (None in frequencies) or (tsz is not None and any(frequencies)):
        typer.echo("Error: give --tsz, or both --cib-95 and --cib-857", err=True)
        raise typer.Exit(2)
    if tsz is not None:
        kind, files = CIB_TSZ, ((cib, unit, 150.0), (tsz, "y", 150.0))
    else:
        kind, files = CIB, ((cib_95, unit, 95.0), (cib, unit, 150.0), (cib_857, unit, 857.0))
    fills = [int(name.startswith("tsz")) for name in kind.channels]
    try:
        catalogue = None if clusters is None else read_clusters(clusters)
        maps = [read_map(path, of, frequency, coordinates, unsaid) for path, of, frequency in files if path]
        mask = source_mask(maps[kind.channels.index("cib_150")])
        if catalogue is not None:
            mask |= cluster_mask(maps[0].nside, catalogue)
        patches = cut_patches(maps, patch_centres(separation, latitude), mask=mask, fills=fills)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_patches(output, patches, kind.channels)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"wrote {len(patches)} patches to {output}")


@app.callback(invoke_without_command=True)
def commands(context: typer.Context) -> None:
    """Without a command: say which there are."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


if __name__ == "__main__":
    app(prog_name="python -m models")
