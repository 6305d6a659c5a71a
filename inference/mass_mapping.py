"""Mass mapping on the command line: ``python -m inference mass_mapping``."""

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

    import xarray as xr

    import bayesdiff as bd
    from models.mass_mapping.data import ShearMap
    from models.mass_mapping.wiener import WienerMap

_OBSERVATION = "Observation (default: HST-COSMOS)"


def mass_mapping(
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="A held-out simulated map under the mask and noise of COSMOS, whose truth is known.",
            rich_help_panel=_OBSERVATION,
        ),
    ] = False,
    prior: Annotated[
        str,
        typer.Option(
            metavar="NAME | twin | PATH",
            help="Convergence prior: the trained one by name, 'twin' (a lognormal field, no network), or the folder of "
            "a saved model.",
            rich_help_panel="Inference",
        ),
    ] = "kappa-64",
    engine: EngineOption = Engine.microcanonical,
    num_chains: ChainsOption = 4,
    num_warmup: WarmupOption = 150,
    num_samples: SamplesOption = 600,
    trajectory_length: TrajectoryOption = 1.5,
    flow_steps: FlowStepsOption = 4,
    seed: SeedOption = 0,
    output: OutputOption = Path("runs/mass_mapping"),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Map the dark matter behind the masked, noisy shear of HST-COSMOS, with its uncertainty.

    The folder of results holds report.html and maps.png (pictures, verdict, how to redo the run), summary.csv,
    verdict.txt, posterior.zarr (draws of the convergence, the Wiener reconstruction, the survey, and the truth
    where it is known, for xarray.open_datatree) and run.json (settings, for the resume command).

    Exit status: 0 converged, 3 not converged, 2 bad input, 130 interrupted (what was drawn is kept and reported).
    """
    settings = {
        "problem": "mass_mapping",
        "simulate": simulate,
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
    """Continue a run from what its folder holds; ends the command like `mass_mapping`."""
    run_field(output, settings, _prepare, quiet=quiet, resuming=True)


def _prepare(settings: dict[str, Any]) -> FieldRun:
    import jax

    from models.mass_mapping.data import load_cosmos
    from models.mass_mapping.model import make_model, observe_held_out
    from models.mass_mapping.prior import convergence_scale, gaussian_convergence

    prior, seed = load_prior(settings["prior"]), settings["seed"]
    key = jax.random.fold_in(jax.random.key(seed), 1)
    observed = observe_held_out(key) if settings["simulate"] else load_cosmos()
    to_convergence = convergence_scale(prior).convergence
    model = make_model(prior, observed.survey, to_convergence, settings["flow_steps"])
    gaussian = gaussian_convergence()

    def sample(store: Path, progress: bool) -> xr.DataTree:
        return reconstruct(
            observed,
            gaussian,
            model,
            algorithm=make_algorithm(settings),
            num_chains=settings["num_chains"],
            num_samples=settings["num_samples"],
            seed=seed,
            store=store,
            progress=progress,
        )

    def write(data: xr.DataTree, folder: Path) -> None:
        write_results(data, observed, folder, settings["prior"])

    return FieldRun(observed.description, prior.fingerprint(), sample, write)


def load_prior(prior: str) -> bd.DiffusionModel:
    """The convergence prior of a name, ``twin`` or a folder.

    Raises:
        FileNotFoundError: it is neither, or has not been trained yet.
        ValueError: the model is damaged or is no convergence prior.
    """
    import bayesdiff as bd
    from models.mass_mapping.prior import NAME, convergence_scale, twin_prior

    if prior == "twin":
        return twin_prior()
    known = bd.list_pretrained()
    if prior == NAME and NAME not in known:
        raise FileNotFoundError(
            f"the prior '{NAME}' has not been trained yet: run 'python -m models train mass_mapping' (minutes on two "
            "cores), or give --prior twin, a lognormal field, which needs no training"
        )
    if prior not in known and not Path(prior).is_dir():
        raise FileNotFoundError(f"--prior must be {NAME}, twin or the folder of a saved model, got {prior!r}")
    model = bd.load_pretrained(prior) if prior in known else bd.load_model(prior)
    convergence_scale(model)
    return model


def reconstruct(
    observed: ShearMap,
    gaussian: bd.GaussianDenoiser,
    model: Callable[..., Any],
    *,
    algorithm: Any,
    num_chains: int = 4,
    num_samples: int = 200,
    seed: int = 0,
    store: Path | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Sample the convergence behind a shear, and add the Wiener reconstruction of the same shear.

    Args:
        observed: shear, mask and noise.
        gaussian: power and mean of the convergence, for the Wiener reconstruction.
        model: of :func:`models.mass_mapping.model.make_model`; the same object for many shears compiles once.
        algorithm: sampler.
        num_chains: chains.
        num_samples: draws of each.
        seed: of every random number.
        store: Zarr store that draws are appended to, from which the same call continues.
        progress: whether to show progress bars.

    Returns:
        DataTree with ``posterior`` (``level`` and ``kappa``), ``sample_stats``, ``observed_data``, ``survey``,
        ``wiener`` (``mean``, ``sd`` and ``draws`` at the noise level 1), and ``truth`` where it is known.
    """
    import jax
    import xarray as xr

    from models.mass_mapping.wiener import wiener_map

    key_sample, key_wiener = jax.random.split(jax.random.key(seed))
    wiener = wiener_map(key_wiener, observed, gaussian)
    data = sample_field(
        key_sample,
        model,
        observed.shear,
        algorithm=algorithm,
        num_chains=num_chains,
        num_samples=num_samples,
        keep=("level", "kappa"),
        store=store,
        progress=progress,
        truth=observed.truth,
    )
    pixels = ("channel", "height", "width")
    maps = {"mean": (pixels, wiener.mean), "sd": (pixels, wiener.sd), "draws": (("index", *pixels), wiener.draws)}
    data["wiener"] = xr.DataTree(xr.Dataset(maps))
    noise = (("component", "height", "width"), observed.survey.noise_sd)
    data["survey"] = xr.DataTree(xr.Dataset({"mask": (("height", "width"), observed.survey.mask), "noise_sd": noise}))
    data.attrs["wiener_residual"] = wiener.residual
    return data


def wiener_of(data: xr.DataTree) -> WienerMap:
    """The Wiener reconstruction that a result holds."""
    from models.mass_mapping.wiener import WienerMap

    group = data["wiener"].to_dataset()
    return WienerMap(
        group["mean"].values, group["draws"].values, group["sd"].values, float(data.attrs["wiener_residual"])
    )


def write_results(data: xr.DataTree, observed: ShearMap, folder: Path, prior: str) -> None:
    """Write the DataTree, the summary, the verdict, the pictures and the page."""
    import numpy as np

    import bayesdiff as bd
    from bayesdiff.reporting import Picture
    from bayesdiff.reporting.style import png_bytes
    from inference.folder import save
    from models.mass_mapping.data import PIXEL_ARCMIN
    from models.mass_mapping.model import LEVEL_SD, chi_square
    from models.mass_mapping.pictures import CAPTION, maps_figure

    save(data, folder)
    draws = field_draws(data, "kappa")
    fit = float(chi_square(draws[:: max(1, len(draws) // 50)], observed).mean())
    level = float(data["posterior"].to_dataset()["level"].mean())
    maps = maps_figure(observed, draws, wiener_of(data))
    (folder / "maps.png").write_bytes(png_bytes(maps))
    residual = (
        f"Residual shear of the draws: chi-square {fit:.3f} per value in units of the noise map; the posterior noise "
        f"level is {level:.3f}, its square {level**2:.3f}."
    )
    bd.reporting.write_report(
        data,
        folder,
        title=f"Mass map, {observed.description}",
        pixel_arcmin=PIXEL_ARCMIN,
        prior_draws={"level": np.exp(LEVEL_SD * np.random.default_rng(0).normal(size=4000))},
        notes=(*notes(prior), residual),
        pictures=(Picture("fields", "Mass maps", lambda: maps, CAPTION),),
    )


def notes(prior: str) -> tuple[str, ...]:
    """What a reader of the map has to know of it."""
    of_prior = (
        "The prior is a lognormal field with the mean and power of the logarithm of a single simulated map."
        if prior == "twin"
        else "The prior was trained on a single simulated map, of one cosmology and one source redshift; it may recall "
        "that map, see the distances to the nearest training window in its card."
    )
    return (
        of_prior,
        "The mean of the convergence is not measured by shear: it is the prior's. Mass beyond the edges of the patch "
        "is not in the model.",
    )
