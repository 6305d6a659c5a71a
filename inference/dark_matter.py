"""Dark matter from stars on the command line: ``python -m inference dark_matter``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inference.exits import CONVERGED, INTERRUPTED, NOT_CONVERGED, command_line, speaking

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    import bayesdiff as bd

_OBSERVATION = "Observation (default: stars in a new N-body simulation)"
_INFERENCE, _OUTPUT = "Inference", "Output"


def dark_matter(
    stars_file: Annotated[
        str | None,
        typer.Option(
            "--stars",
            metavar="FILE[:ARRAY]",
            help="Map of stellar mass (.npy or .npz) in units of the mean mass of a galaxy, on pixels of 25/64 Mpc/h, "
            "periodic; of any size.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    pixel_mpc_h: Annotated[
        float | None,
        typer.Option(help="Side of a pixel of that file, in Mpc/h, to be checked.", rich_help_panel=_OBSERVATION),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="Of the simulated stars: power, as in the training, threshold or environment.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = "power",
    omega_m: Annotated[float, typer.Option(help="Of the simulation.", rich_help_panel=_OBSERVATION)] = 0.3,
    sigma_8: Annotated[float, typer.Option(help="Of the simulation.", rich_help_panel=_OBSERVATION)] = 0.8,
    map_index: Annotated[int, typer.Option(help="Which of its 15 slabs.", rich_help_panel=_OBSERVATION)] = 0,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME | PATH",
            help="Reconstruction: a trained one by name, or the folder of a saved model.",
            rich_help_panel=_INFERENCE,
        ),
    ] = "dark-matter-64",
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW,COLUMN",
            help="Centre, in pixels, of a disc whose mass is wanted; may be given more than once.",
            show_default="the brightest pixel and the emptiest surroundings",
            rich_help_panel=_INFERENCE,
        ),
    ] = None,
    radius: Annotated[float, typer.Option(help="Of the discs, in Mpc/h.", rich_help_panel=_INFERENCE)] = 3.0,
    num_draws: Annotated[int, typer.Option(min=40, help="Draws of the field.", rich_help_panel=_INFERENCE)] = 600,
    num_evaluations: Annotated[
        int,
        typer.Option(
            min=4, help="Of the network, for a draw; the published model takes 250.", rich_help_panel=_INFERENCE
        ),
    ] = 28,
    cosmology: Annotated[
        bool,
        typer.Option(
            help="Infer Omega_m and sigma_8 with each field, from its power spectrum and mean.",
            show_default="where the map has the 64 x 64 pixels of the training",
            rich_help_panel=_INFERENCE,
        ),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of every random number.", rich_help_panel=_INFERENCE)] = 0,
    output: Annotated[Path, typer.Option(help="Folder for the results.", rich_help_panel=_OUTPUT)] = Path(
        "runs/dark_matter"
    ),
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the results of an earlier run there.", rich_help_panel=_OUTPUT),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Reconstruct the dark matter behind a map of stars: draws, masses of regions, and the cosmology they tell.

    The folder of results holds report.html (pictures, table, verdict, how to redo the run), summary.csv, verdict.txt
    and posterior.zarr (masses, cosmology and drawn fields, for xarray.open_datatree).

    Exit status: 0 converged, 3 not converged, 2 bad input, 130 interrupted (what was drawn is kept and reported).
    """
    from rich.console import Console

    console = Console(highlight=False)
    with speaking():
        from inference.folder import clear_output, refuse_output
        from models.dark_matter.observation import read_stars, simulate_stars
        from models.dark_matter.prior import scales_of
        from models.density_fields.data import PIXEL

        refuse_output(output, overwrite)
        reconstruction = load_reconstruction(model)
        if stars_file is None and pixel_mpc_h is not None:
            raise ValueError("--pixel-mpc-h is that of --stars FILE, and no file was given")
        console.print("Simulating the observation" if stars_file is None else f"Reading {stars_file}", markup=False)
        observed = (
            simulate_stars(seed, omega_m, sigma_8, recipe, map_index)
            if stars_file is None
            else read_stars(stars_file, scales_of(reconstruction).stars, PIXEL if pixel_mpc_h is None else pixel_mpc_h)
        )
        discs = choose_discs(observed.stars, region, radius)
        clear_output(output)
    console.print(f"Observation: {observed.description}", markup=False, soft_wrap=True)
    settings = {
        "model": model,
        "model_hash": reconstruction.fingerprint(),
        "num_draws": num_draws,
        "num_evaluations": num_evaluations,
        "cosmology": cosmology and observed.stars.shape == reconstruction.event_shape[-2:],
        "seed": seed,
        "command": command_line(),
    }
    with speaking("Interrupted: before the first draws there is nothing to keep."):
        from inference.dark_matter_study import run, write_results

        data = run(observed, reconstruction, discs, settings, progress=not quiet)
        write_results(data, observed, discs, output)
    raise typer.Exit(_conclude(console, data, output))


def load_reconstruction(name: str) -> bd.DiffusionModel:
    """The reconstruction of a name or a folder.

    Raises:
        FileNotFoundError: it is neither.
        ValueError: the model is damaged or is no reconstruction.
    """
    import bayesdiff as bd
    from models.dark_matter.prior import NAME, scales_of

    known = bd.list_pretrained()
    if name not in known and not Path(name).is_dir():
        raise FileNotFoundError(f"--model must be {NAME} or the folder of a saved model, got {name!r}")
    model = bd.load_pretrained(name) if name in known else bd.load_model(name)
    scales_of(model)
    return model


def choose_discs(stars: np.ndarray, centres: list[str] | None, radius: float) -> dict[str, np.ndarray]:
    """Regions by name: discs about the given centres, or about the brightest pixel and where fewest stars are.

    Raises:
        ValueError: a centre that is not two numbers, or a radius that does not fit the map.
    """
    import numpy as np

    from bayesdiff.fields import gaussian_smooth
    from models.dark_matter.regions import disc
    from models.density_fields.data import PIXEL

    if centres is None:
        smooth = np.asarray(gaussian_smooth(stars, radius / PIXEL / 2.0))
        found = {"brightest": np.argmax(stars), "emptiest": np.argmin(smooth)}
        points = {name: np.unravel_index(index, stars.shape) for name, index in found.items()}
    else:
        points = {}
        for text in centres:
            try:
                row, column = (float(x) for x in text.split(","))
            except ValueError:
                raise ValueError(f"--region must be ROW,COLUMN in pixels, as 12,40, got {text!r}") from None
            points[f"{row:g}_{column:g}"] = (row, column)
    shape = (stars.shape[0], stars.shape[1])
    return {name: disc(shape, (float(row), float(column)), radius) for name, (row, column) in points.items()}


def _conclude(console: Any, data: xr.DataTree, output: Path) -> int:
    """Print the table and the verdict; returns the exit status."""
    import bayesdiff as bd
    from inference.dark_matter_study import bounds_of
    from inference.study import far_from_truth

    table = bd.reporting.summary_text(bd.reporting.summary_table(data))
    console.print(table, markup=False, soft_wrap=True)
    judged = bd.reporting.verdict(data, bounds=bounds_of(data))
    console.print(
        judged.sentence, style={"good": "green", "caution": "yellow", "bad": "red"}[judged.level], markup=False
    )
    for line in far_from_truth(data):
        console.print(line, style="yellow", markup=False)
    console.print(f"Report: {output / 'report.html'}", markup=False, soft_wrap=True)
    if data.attrs["status"] == "interrupted":
        console.print("The run was interrupted; what was drawn so far is in the report and in posterior.zarr.")
        return INTERRUPTED
    return CONVERGED if judged.converged else NOT_CONVERGED
