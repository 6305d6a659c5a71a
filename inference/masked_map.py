"""A masked dust map on the command line: ``python -m inference masked_map``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from inference.sampled_field import (
    ChainsOption,
    Engine,
    EngineOption,
    FieldRun,
    FlowStepsOption,
    OutputOption,
    OverwriteOption,
    QuietOption,
    SamplesOption,
    SeedOption,
    TrajectoryOption,
    WarmupOption,
    field_draws,
    make_algorithm,
    run_field,
    sample_field,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import jax
    import xarray as xr

    import bayesdiff as bd
    from models.masked_map.observation import MaskedMap

_OBSERVATION = "Observation (default: a draw of the prior under a mask, its truth known)"


def masked_map(
    map_file: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="FILE[:ARRAY]",
            help="Dust map (.npy, .npz or FITS): a patch of it is seen through the mask and the noise. Needs "
            "--pixel-arcmin.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    pixel_arcmin: Annotated[
        float | None,
        typer.Option(help="Side of a pixel of that file [arcmin].", rich_help_panel=_OBSERVATION),
    ] = None,
    patch: Annotated[
        int, typer.Option(min=0, help="Which of the map's disjoint patches.", rich_help_panel=_OBSERVATION)
    ] = 0,
    observation_file: Annotated[
        Path | None,
        typer.Option(
            "--observation",
            metavar="FILE.npz",
            help="An observation as it is: arrays y, mask and relative_noise, in units of the dust standard deviation.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            metavar="NAME | twin | PATH",
            help="Dust prior: a trained one by name, 'twin' (a Gaussian field, no network), or the folder of a model.",
            rich_help_panel="Inference",
        ),
    ] = "dust-cmb-64",
    engine: EngineOption = Engine.microcanonical,
    num_chains: ChainsOption = 4,
    num_warmup: WarmupOption = 200,
    num_samples: SamplesOption = 400,
    trajectory_length: TrajectoryOption = 4.0,
    flow_steps: FlowStepsOption = 6,
    seed: SeedOption = 0,
    output: OutputOption = Path("runs/masked_map"),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Denoise and fill in a dust map seen through a mask in inhomogeneous noise, its level and calibration unknown.

    The folder of results holds report.html and maps.png (pictures, verdict, how to redo the run), summary.csv,
    verdict.txt, posterior.zarr (draws of the field x, level and calibration, the survey, and the truth where it is
    known, for xarray.open_datatree) and run.json (settings, for the resume command).

    Exit status: 0 converged, 3 not converged, 2 bad input, 130 interrupted (what was drawn is kept and reported).
    """
    settings = {
        "problem": "masked_map",
        "map": None if map_file is None else str(map_file),
        "pixel_arcmin": pixel_arcmin,
        "patch": patch,
        "observation_file": None if observation_file is None else str(observation_file.resolve()),
        "prior": str(Path(prior).resolve()) if Path(prior).is_dir() else prior,
        "engine": engine.value,
        "num_chains": num_chains,
        "num_warmup": num_warmup,
        "num_samples": num_samples,
        "trajectory_length": trajectory_length,
        "flow_steps": flow_steps,
        "seed": seed,
    }
    run_field(output, settings, _prepare, quiet=quiet, overwrite=overwrite)


def resume(output: Path, settings: dict[str, Any], quiet: bool) -> NoReturn:
    """Continue a run from what its folder holds; ends the command like `masked_map`."""
    run_field(output, settings, _prepare, quiet=quiet, resuming=True)


def _prepare(settings: dict[str, Any]) -> FieldRun:
    import jax

    from inference.dust_cmb import load_prior
    from models.dust_cmb.observation import model_pixel_arcmin
    from models.masked_map.model import make_model

    prior = load_prior(settings["prior"])
    key_observation, key_sample = jax.random.split(jax.random.key(settings["seed"]))
    observed = make_observation(key_observation, prior, settings)
    model = make_model(prior, observed.mask, observed.relative_noise, num_steps=settings["flow_steps"])

    def sample(store: Path, progress: bool) -> xr.DataTree:
        return reconstruct(
            key_sample,
            observed,
            model,
            algorithm=make_algorithm(settings),
            num_chains=settings["num_chains"],
            num_samples=settings["num_samples"],
            store=store,
            progress=progress,
        )

    def write(data: xr.DataTree, folder: Path) -> None:
        write_results(data, observed, folder, model_pixel_arcmin(prior))

    return FieldRun(observed.description, prior.fingerprint(), sample, write)


def make_observation(key: jax.Array, prior: bd.DiffusionModel, settings: dict[str, Any]) -> MaskedMap:
    """The observation that the options describe.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: options that do not go together, or a file that does not fit.
    """
    import jax
    import numpy as np

    import bayesdiff as bd
    from models.dust_cmb.observation import read_patch
    from models.masked_map.model import central_context
    from models.masked_map.observation import observe, read_masked_map, scan_noise, survey_mask

    size = prior.event_shape[-1]
    if settings["observation_file"] is not None:
        if settings["map"] is not None:
            raise ValueError("give --map (dust to be observed) or --observation (a masked map), not both")
        return read_masked_map(Path(settings["observation_file"]), prior.event_shape)
    key_field, key_noise = jax.random.split(key)
    if settings["map"] is not None:
        found = read_patch(settings["map"], prior, settings["pixel_arcmin"], settings["patch"])
        field, description = found.dust, f"{found.description}, under a mask and simulated noise"
    else:
        field = np.asarray(bd.DiffusionPrior(prior, central_context(prior)).sample(key_field))
        description = "draw of the prior under a mask and noise"
    return observe(key_noise, field, survey_mask(size), scan_noise(size), description=description)


def reconstruct(
    key: jax.Array,
    observed: MaskedMap,
    model: Callable[..., Any],
    *,
    algorithm: Any,
    num_chains: int = 4,
    num_samples: int = 200,
    store: Path | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Sample the field behind a masked map.

    Args:
        key: random key.
        observed: map, mask and noise.
        model: of :func:`models.masked_map.model.make_model`; the same object for many maps compiles once.
        algorithm: sampler.
        num_chains: chains.
        num_samples: draws of each.
        store: Zarr store that draws are appended to, from which the same call continues.
        progress: whether to show progress bars.

    Returns:
        DataTree with ``posterior`` (``level``, ``calibration`` and ``x``), ``sample_stats``, ``observed_data``,
        ``survey``, and ``truth`` where it is known.
    """
    import xarray as xr

    data = sample_field(
        key,
        model,
        observed.y,
        algorithm=algorithm,
        num_chains=num_chains,
        num_samples=num_samples,
        keep=("level", "calibration", "x"),
        store=store,
        progress=progress,
        truth=observed.truth,
    )
    plane = ("height", "width")
    survey = {"mask": (plane, observed.mask), "relative_noise": (plane, observed.relative_noise)}
    data["survey"] = xr.DataTree(xr.Dataset(survey))
    return data


def write_results(data: xr.DataTree, observed: MaskedMap, folder: Path, pixel_arcmin: float) -> None:
    """Write the DataTree, the summary, the verdict, the pictures and the page."""
    import numpy as np

    import bayesdiff as bd
    from bayesdiff.reporting import Picture
    from bayesdiff.reporting.style import png_bytes
    from inference.folder import save
    from models.masked_map.model import CALIBRATION_SD, LEVEL_BOUNDS
    from models.masked_map.pictures import CAPTION, maps_figure

    save(data, folder)
    maps = maps_figure(observed, field_draws(data, "x"), pixel_arcmin)
    (folder / "maps.png").write_bytes(png_bytes(maps))
    rng = np.random.default_rng(0)
    bd.reporting.write_report(
        data,
        folder,
        title=f"Masked map, {observed.description}",
        pixel_arcmin=pixel_arcmin,
        parameters=("level", "calibration"),
        bounds={"level": LEVEL_BOUNDS},
        prior_draws={
            "level": np.exp(rng.uniform(*np.log(LEVEL_BOUNDS), size=4000)),
            "calibration": rng.normal(1.0, CALIBRATION_SD, size=4000),
        },
        notes=(
            f"{int(observed.mask.sum())} of {observed.mask.size} pixels were observed. Maps are in units of the dust "
            "standard deviation of the maps that the prior was trained on.",
        ),
        pictures=(Picture("fields", "Maps", lambda: maps, CAPTION),),
    )
