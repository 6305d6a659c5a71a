"""A masked dust map on the command line: ``python -m inference masked_map``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from inference.sampled_field import (
    ChainsOption,
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


class MaskedEngine(StrEnum):
    """How the posterior is sampled."""

    gibbs = "gibbs"
    microcanonical = "microcanonical"
    nuts = "nuts"


NUM_DIFFUSION_STEPS = 8
"""Of the reverse process from the noise of the best pixels."""
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
        typer.Option(help="Side of a pixel of that file, in arcmin.", rich_help_panel=_OBSERVATION),
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
    ] = "dust-shapes-64",
    engine: Annotated[
        MaskedEngine,
        typer.Option(
            help="gibbs: reverse diffusion for the field and NUTS for the rest, in turn. microcanonical and nuts: the "
            "field as unit normal values under the prior's probability flow, with gradients of the network.",
            rich_help_panel="Inference",
        ),
    ] = MaskedEngine.gibbs,
    calibration_sd: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Standard deviation of the logarithm of the map's calibration, 0 for one that is calibrated. Of the "
            "trained priors only dust-shapes-64, whose amplitude is a parameter, lets Gibbs tell a calibration.",
            show_default="0 with another trained prior by gibbs, else 0.05",
            rich_help_panel="Inference",
        ),
    ] = None,
    num_chains: ChainsOption = 4,
    num_warmup: WarmupOption = 300,
    num_samples: SamplesOption = 5000,
    trajectory_length: TrajectoryOption = 4.0,
    flow_steps: FlowStepsOption = 6,
    seed: SeedOption = 0,
    output: OutputOption = Path("runs/masked_map"),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Denoise and fill in a dust map seen through a mask in inhomogeneous noise of unknown level.

    The folder of results holds report.html and maps.png (pictures, verdict, how to redo the run), summary.csv,
    verdict.txt, posterior.zarr (draws of the field x and of what else is unknown, the survey, the truth where known,
    for xarray.open_datatree) and run.json (settings, for the resume command).

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
        "calibration_sd": calibration_sd,
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

    from models.masked_map.model import CALIBRATION_SD, default_calibration_sd, make_model, unknowns

    prior = load_prior(settings["prior"])
    key_observation, key_sample = jax.random.split(jax.random.key(settings["seed"]))
    gibbs = MaskedEngine(settings["engine"]) is MaskedEngine.gibbs
    calibration_sd = settings.get("calibration_sd", CALIBRATION_SD)
    if calibration_sd is None:
        calibration_sd = default_calibration_sd(prior, gibbs)
    observed = make_observation(key_observation, prior, settings, calibration=1.0 + 0.4 * calibration_sd)
    model = make_model(
        prior,
        observed.mask,
        observed.relative_noise,
        num_steps=None if gibbs else settings["flow_steps"],
        calibration_sd=calibration_sd,
    )

    def sample(store: Path, progress: bool) -> xr.DataTree:
        return reconstruct(
            key_sample,
            observed,
            model,
            algorithm=masked_algorithm(settings),
            unknown=unknowns(prior, calibration_sd),
            num_chains=settings["num_chains"],
            num_samples=settings["num_samples"],
            store=store,
            progress=progress,
        )

    def write(data: xr.DataTree, folder: Path) -> None:
        write_results(data, observed, folder, prior, calibration_sd)

    return FieldRun(observed.description, prior.fingerprint(), sample, write)


def load_prior(prior: str) -> bd.DiffusionModel:
    """The dust prior of a name, ``twin`` (in white noise) or a folder.

    Raises:
        FileNotFoundError: it is neither a known name nor a folder.
        ValueError: the model is damaged, or is not one of square maps of one channel whose pixel scale is known.
    """
    import bayesdiff as bd
    from bayesdiff.diffusion.model import Card
    from models.dust_cmb.observation import model_pixel_arcmin
    from models.linear_gaussian import PIXEL_ARCMIN, make_twin

    if prior == "twin":
        twin = make_twin(64)
        card = Card({"pixel_arcmin": PIXEL_ARCMIN})
        return bd.DiffusionModel(twin.denoiser, twin.schedule, bd.WhiteNoise(), twin.event_shape, card=card)
    known = tuple(bd.list_pretrained())
    if prior not in known and not Path(prior).is_dir():
        raise FileNotFoundError(
            f"--prior must be {', '.join((*known, 'twin'))} or the folder of a saved model, got {prior!r}"
        )
    dust = bd.load_pretrained(prior) if prior in known else bd.load_model(prior)
    channels, height, width = dust.event_shape
    if channels != 1 or height != width or dust.prior_depends_on_context:
        raise ValueError(
            f"the prior must be one of square maps of one channel, the same in every context, got {dust.event_shape} "
            f"and the context {dust.context_names}"
        )
    model_pixel_arcmin(dust)
    return dust


def masked_algorithm(settings: dict[str, Any]) -> Any:
    """The sampler of the settings."""
    import bayesdiff as bd

    if MaskedEngine(settings["engine"]) is MaskedEngine.gibbs:
        return bd.GibbsDiffusion(num_warmup=settings["num_warmup"], num_diffusion_steps=NUM_DIFFUSION_STEPS)
    return make_algorithm(settings)


def make_observation(
    key: jax.Array, prior: bd.DiffusionModel, settings: dict[str, Any], calibration: float = 1.0
) -> MaskedMap:
    """The observation that the options describe.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: options that do not go together, or a file that does not fit.
    """
    import jax

    from models.dust_cmb.observation import read_patch
    from models.masked_map.model import draw_field
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
        field = draw_field(key_field, prior)
        description = "draw of the prior under a mask and noise"
    survey = survey_mask(size), scan_noise(size)
    return observe(key_noise, field, *survey, calibration=calibration, description=description)


def reconstruct(
    key: jax.Array,
    observed: MaskedMap,
    model: Callable[..., Any],
    *,
    algorithm: Any,
    unknown: tuple[str, ...] = ("level", "calibration"),
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
        unknown: parameters of the model.
        num_chains: chains.
        num_samples: draws of each.
        store: Zarr store that draws are appended to, from which the same call continues.
        progress: whether to show progress bars.

    Returns:
        DataTree with ``posterior`` (what is unknown, and ``x``), ``sample_stats``, ``observed_data``,
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
        keep=(*unknown, "x"),
        store=store,
        progress=progress,
        truth=observed.truth,
    )
    plane = ("height", "width")
    survey = {"mask": (plane, observed.mask), "relative_noise": (plane, observed.relative_noise)}
    data["survey"] = xr.DataTree(xr.Dataset(survey))
    return data


def write_results(
    data: xr.DataTree, observed: MaskedMap, folder: Path, prior: bd.DiffusionModel, calibration_sd: float
) -> None:
    """Write the DataTree, the summary, the verdict, the pictures and the page."""
    import jax
    import numpy as np
    from numpyro.infer import Predictive

    import bayesdiff as bd
    from bayesdiff.reporting import Picture
    from bayesdiff.reporting.style import png_bytes
    from inference.folder import save
    from models.dust_cmb.observation import model_pixel_arcmin
    from models.masked_map.model import LEVEL_BOUNDS, parameter_priors, unknowns
    from models.masked_map.pictures import CAPTION, maps_figure

    save(data, folder)
    pixel_arcmin = model_pixel_arcmin(prior)
    maps = maps_figure(observed, field_draws(data, "x"), pixel_arcmin)
    (folder / "maps.png").write_bytes(png_bytes(maps))
    simulated = Predictive(lambda: parameter_priors(prior, calibration_sd), num_samples=4000)(jax.random.key(0))
    prior_draws = {name: np.asarray(simulated[name]) for name in unknowns(prior, calibration_sd)}
    bd.reporting.write_report(
        data,
        folder,
        title=f"Masked map, {observed.description}",
        pixel_arcmin=pixel_arcmin,
        parameters=tuple(prior_draws),
        bounds={"level": LEVEL_BOUNDS},
        prior_draws=prior_draws,
        notes=(
            f"{int(observed.mask.sum())} of {observed.mask.size} pixels were observed. Maps are in units of the dust "
            "standard deviation of the maps that the prior was trained on.",
        ),
        pictures=(Picture("fields", "Maps", lambda: maps, CAPTION),),
    )
