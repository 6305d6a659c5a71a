"""Separation of CIB and tSZ on the command line: ``python -m inference cib_tsz``."""

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

    import numpy as np
    import xarray as xr

    import bayesdiff as bd
    from models.cib_tsz.observation import Observation

_OBSERVATION = "Observation (default: a held-out mock in CMB and noise)"


def cib_tsz(
    observation: Annotated[
        Path | None,
        typer.Option(
            help="Maps at 95 and 150 GHz, 64 x 64 pixels of 2 arcmin: an .npz file of maps (2, 64, 64) in micro-K, "
            "frequencies (95, 150) and noise (two depths in micro-K arcmin).",
            rich_help_panel=_OBSERVATION,
        ),
    ] = None,
    patch: Annotated[int, typer.Option(min=0, help="Patch of the held-out mocks.", rich_help_panel=_OBSERVATION)] = 0,
    cib_amplitude: Annotated[
        float, typer.Option(min=0.2, max=5.0, help="True amplitude of the CIB.", rich_help_panel=_OBSERVATION)
    ] = 1.0,
    tsz_amplitude: Annotated[
        float, typer.Option(min=0.2, max=5.0, help="True amplitude of the tSZ.", rich_help_panel=_OBSERVATION)
    ] = 1.0,
    prior: Annotated[
        str,
        typer.Option(
            metavar="NAME | twin | PATH",
            help="Prior of both fields: the trained one by name, 'twin' (its Gaussian twin on the same scale, no "
            "network: minutes), or the folder of a saved model.",
            rich_help_panel="Inference",
        ),
    ] = "twin",
    engine: EngineOption = Engine.microcanonical,
    num_chains: ChainsOption = 4,
    num_warmup: WarmupOption = 300,
    num_samples: SamplesOption = 700,
    trajectory_length: TrajectoryOption = 1.5,
    flow_steps: FlowStepsOption = 8,
    seed: SeedOption = 0,
    output: OutputOption = Path("runs/cib_tsz"),
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Separate CIB and tSZ in maps at 95 and 150 GHz with CMB and noise, and find the amplitudes of both.

    The folder of results holds report.html and maps.png (pictures, verdict, how to redo the run), summary.csv,
    verdict.txt, posterior.zarr (draws of amplitudes and fields, and the truth where it is known, for
    xarray.open_datatree) and run.json (settings, for the resume command).

    Exit status: 0 converged, 3 not converged, 2 bad input, 130 interrupted (what was drawn is kept and reported).
    """
    settings = {
        "problem": "cib_tsz",
        "maps": None if observation is None else str(observation.resolve()),
        "patch": patch,
        "cib_amplitude": cib_amplitude,
        "tsz_amplitude": tsz_amplitude,
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
    """Continue a run from what its folder holds; ends the command like `cib_tsz`."""
    run_field(output, settings, _prepare, quiet=quiet, resuming=True)


def _prepare(settings: dict[str, Any]) -> FieldRun:
    from models.cib_tsz.model import make_model
    from models.cib_tsz.observation import cmb_power, observe_held_out, read_observation

    prior = load_prior(settings["prior"])
    if settings["maps"] is None:
        amplitudes = settings["cib_amplitude"], settings["tsz_amplitude"]
        observed = observe_held_out(settings["patch"], amplitudes, seed=settings["seed"])
    else:
        observed = read_observation(Path(settings["maps"]))
    cmb = cmb_power()
    model = make_model(prior, observed.noise, cmb, settings["flow_steps"])

    def sample(store: Path, progress: bool) -> xr.DataTree:
        return separate(
            observed,
            model,
            algorithm=make_algorithm(settings),
            num_chains=settings["num_chains"],
            num_samples=settings["num_samples"],
            seed=settings["seed"],
            store=store,
            progress=progress,
        )

    def write(data: xr.DataTree, folder: Path) -> None:
        write_results(data, observed, prior, cmb, folder)

    return FieldRun(observed.description, prior.fingerprint(), sample, write)


def load_prior(prior: str) -> bd.DiffusionModel:
    """The prior of CIB and tSZ of a name, ``twin`` or a folder.

    Raises:
        FileNotFoundError: it is neither.
        ValueError: the model is damaged, or is no prior of CIB and tSZ at 150 GHz, in this order, on these pixels.
    """
    import bayesdiff as bd
    from models.cib_tsz.mock import PIXEL_ARCMIN
    from models.cib_tsz.observation import FIELDS
    from models.cib_tsz.prior import CIB_TSZ, twin_of
    from models.cib_tsz.scale import scale_of

    known = bd.list_pretrained()
    if prior == "twin":
        return twin_of(bd.load_pretrained(CIB_TSZ.name))
    if prior not in known and not Path(prior).is_dir():
        raise FileNotFoundError(f"--prior must be {CIB_TSZ.name}, twin or the folder of a saved model, got {prior!r}")
    model = bd.load_pretrained(prior) if prior in known else bd.load_model(prior)
    scale_of(model, FIELDS, PIXEL_ARCMIN)
    return model


def separate(
    observed: Observation,
    model: Callable[..., Any],
    *,
    algorithm: Any,
    num_chains: int = 4,
    num_samples: int = 1000,
    seed: int = 0,
    store: Path | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Sample amplitudes and fields behind maps at 95 and 150 GHz.

    Args:
        observed: the maps.
        model: of :func:`models.cib_tsz.model.make_model`; the same object for many maps compiles once.
        algorithm: sampler.
        num_chains: chains.
        num_samples: draws of each.
        seed: of every random number.
        store: Zarr store that draws are appended to, from which the same call continues.
        progress: whether to show progress bars.

    Returns:
        DataTree with ``posterior`` (``A_cib``, ``A_tsz``, ``cib`` and ``tsz``), ``sample_stats``, ``observed_data``,
        and ``truth`` where it is known.
    """
    import jax

    return sample_field(
        jax.random.key(seed),
        model,
        observed.maps,
        algorithm=algorithm,
        num_chains=num_chains,
        num_samples=num_samples,
        keep=("A_cib", "A_tsz", "cib", "tsz"),
        store=store,
        progress=progress,
        truth=observed.truth,
    )


def write_results(
    data: xr.DataTree, observed: Observation, prior: bd.DiffusionModel, cmb: np.ndarray, folder: Path
) -> None:
    """Write the DataTree, the summary, the verdict, the pictures and the page."""
    import numpy as np

    import bayesdiff as bd
    from bayesdiff.reporting import Picture
    from bayesdiff.reporting.style import png_bytes
    from inference.folder import save
    from models.cib_tsz.mock import PIXEL_ARCMIN
    from models.cib_tsz.model import AMPLITUDES
    from models.cib_tsz.pictures import CAPTION, SPECTRA_CAPTION, maps_figure, spectra_figure

    save(data, folder)
    cib, tsz = (field_draws(data, name) for name in ("cib", "tsz"))
    maps = maps_figure(observed, cib, tsz)
    some = slice(None, None, max(1, len(cib) // 200))
    spectra = spectra_figure(observed, cib[some], tsz[some])
    (folder / "maps.png").write_bytes(png_bytes(maps))
    low, high = np.log(AMPLITUDES)
    prior_draws = np.exp(np.random.default_rng(0).uniform(low, high, (2, 4000)))
    bounds = {"A_cib": AMPLITUDES, "A_tsz": AMPLITUDES}
    bd.reporting.write_report(
        data,
        folder,
        title=f"CIB and tSZ, {observed.description}",
        pixel_arcmin=PIXEL_ARCMIN,
        bounds=bounds,
        parameters=tuple(bounds),
        prior_draws=dict(zip(bounds, prior_draws, strict=True)),
        notes=notes(observed, prior, cmb),
        pictures=(
            Picture("fields", "CIB and tSZ", lambda: maps, CAPTION),
            Picture("spectra", "Spectra of both fields", lambda: spectra, SPECTRA_CAPTION),
        ),
    )


def notes(observed: Observation, prior: bd.DiffusionModel, cmb: np.ndarray) -> tuple[str, ...]:
    """What a reader has to know of the amplitudes and of the fields."""
    from bayesdiff.diffusion.denoiser import is_gaussian
    from models.cib_tsz.amplitudes import amplitude_posterior, spectra_of

    exact = amplitude_posterior(observed.maps, spectra_of(prior), cmb, observed.noise)
    found = zip(("A_cib", "A_tsz"), exact.mean, exact.sd, strict=True)
    alone = ", ".join(f"{name} {mean:.3f} ± {sd:.3f}" for name, mean, sd in found)
    of_twin = (
        "The twin knows how deep pixels of the tSZ effect are and their spectra, but not the shapes of clusters: in "
        "mocks its A_tsz comes out low by two to three of its standard deviations (study cib_tsz_amplitudes).",
    )
    return (
        *(of_twin if is_gaussian(prior.denoiser) else ()),
        "An amplitude is how much brighter both the mean and the fluctuations of a field are than in the simulations "
        "of the prior; the mean of a map is not observed.",
        f"What the spectra alone would say, were both fields Gaussian: {alone}. Where the sky is not Gaussian these "
        "errors are too small, because bright clusters make the power of a patch vary.",
        "CMB and noise are taken to be periodic on the patch. Those of a patch cut from a larger map are not: taper "
        "it, or expect the closing seam in the fields.",
    )
