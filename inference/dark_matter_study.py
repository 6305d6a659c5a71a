"""The posterior of dark matter behind stars: draws, masses of regions, and the cosmology that they tell.

Draws of the reconstruction are independent, so there are no chains to wait for: the table's four are its draws in turn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import xarray as xr
from rich.progress import Progress

import bayesdiff as bd
from bayesdiff.reporting import Picture
from inference.folder import save
from inference.study import far_from_truth
from models.dark_matter.model import draw, draw_joint
from models.dark_matter.pictures import MAPS_CAPTION, SPECTRA_CAPTION, Reconstruction, maps_figure, spectra_figure
from models.dark_matter.prior import scales_of
from models.dark_matter.regions import mass_in
from models.density_fields.baselines import load_baselines, scale_of
from models.density_fields.data import PARAMETER_BOUNDS

if TYPE_CHECKING:
    from models.dark_matter.observation import Stars
    from models.density_fields.power_spectrum import PowerSpectrumBaseline

NUM_CHAINS, CHUNK = 4, 20


def run(
    observed: Stars,
    reconstruction: bd.DiffusionModel,
    discs: dict[str, np.ndarray],
    settings: dict[str, Any],
    progress: bool = True,
) -> xr.DataTree:
    """Draw fields, their masses and, where it is wanted, cosmologies.

    Args:
        observed: the stars.
        reconstruction: the model.
        discs: regions (H, W) by name.
        settings: ``num_draws``, ``num_evaluations``, ``cosmology`` and ``seed``; all are kept with the result.
        progress: show progress bars.

    Returns:
        A result with ``log10_mass_<region>`` [Msun/h] and, with it, Omega_m and sigma_8 in ``posterior``, the fields,
        log10 of the surface density, in ``fields`` and what is known of the truth in ``truth``. Interrupted after the
        first draws it holds those and says so in ``status``.
    """
    key, steps = jax.random.key(settings["seed"]), settings["num_evaluations"]
    spectrum = load_spectrum(reconstruction) if settings["cosmology"] else None
    fields: list[np.ndarray] = []
    parameters: list[np.ndarray] = []
    status, chunks = "complete", -(-settings["num_draws"] // CHUNK)
    try:
        with Progress(disable=not progress) as bar:
            for index in bar.track(range(chunks), description="Dark matter"):
                one = jax.random.fold_in(key, index)
                if spectrum is None:
                    drawn = draw(one, reconstruction, observed.stars, CHUNK, steps)
                else:
                    drawn, cosmologies = draw_joint(one, reconstruction, spectrum, observed.stars, CHUNK, steps)
                    parameters.append(cosmologies)
                fields.append(drawn)
    except KeyboardInterrupt:
        if not fields:
            raise
        status = "interrupted"
    num = min(settings["num_draws"], CHUNK * len(fields)) // NUM_CHAINS * NUM_CHAINS
    scale = scales_of(reconstruction).density
    logs = scale.mean + scale.sd * np.concatenate(fields)[:num]
    thetas = np.concatenate(parameters)[:num] if parameters else np.zeros((num, 0))
    return _result(logs, thetas, observed, discs, settings | {"status": status})


def load_spectrum(reconstruction: bd.DiffusionModel) -> PowerSpectrumBaseline:
    """The likelihood of a field's spectrum and mean.

    Raises:
        ValueError: it knows fields of another standardisation than the reconstruction's.
    """
    theirs, ours = scale_of(), scales_of(reconstruction).density
    if not np.allclose(theirs, ours, rtol=1e-6):
        raise ValueError(
            f"the spectrum's likelihood knows fields of the scale {theirs}, the reconstruction has {ours}: give "
            "--no-cosmology"
        )
    return load_baselines().power_spectrum


def _result(
    logs: np.ndarray,
    thetas: np.ndarray,
    observed: Stars,
    discs: dict[str, np.ndarray],
    settings: dict[str, Any],
) -> xr.DataTree:
    """The result of draws (num, 1, H, W) of log10 of the surface density, and of (num, 0 or 2) parameters."""
    dims = ("chain", "draw")
    logs, thetas = (x.reshape(NUM_CHAINS, len(x) // NUM_CHAINS, *x.shape[1:]) for x in (logs, thetas))
    posterior = {f"log10_mass_{n}": (dims, np.log10(mass_in(10.0 ** logs[:, :, 0], r))) for n, r in discs.items()}
    posterior |= {name: (dims, thetas[..., i]) for i, name in enumerate(PARAMETER_BOUNDS) if thetas.shape[-1]}
    truth: dict[str, Any] = {}
    if observed.density is not None:
        truth = {f"log10_mass_{n}": np.log10(float(mass_in(observed.density, r))) for n, r in discs.items()}
        truth["dark_matter"] = (("channel", "row", "column"), np.log10(observed.density)[None])
        truth |= (observed.parameters or {}) if thetas.shape[-1] else {}
    fields = xr.Dataset({"dark_matter": ((*dims, "channel", "row", "column"), logs.astype(np.float32))})
    data = xr.DataTree.from_dict({
        "posterior": xr.Dataset(posterior),
        "fields": fields,
        "observed_data": xr.Dataset({"stars": (("row", "column"), observed.stars)}),
        **({"truth": xr.Dataset(truth)} if truth else {}),
    })  # fmt: skip
    data.attrs |= {
        "algorithm": "independent draws of the reconstruction",
        "settings": json.dumps(settings),
        **{name: settings[name] for name in ("status", "command", "seed", "model_hash")},
    }
    return data


def write_results(data: xr.DataTree, observed: Stars, discs: dict[str, np.ndarray], output: Path) -> Path:
    """Write posterior.zarr, summary.csv, verdict.txt and the page; returns the page."""
    save(data, output)
    rng = np.random.default_rng(0)
    drawn = np.asarray(data["fields"]["dark_matter"])
    truth = None if observed.density is None else np.log10(observed.density)
    row = Reconstruction(observed.stars, drawn.reshape(-1, *drawn.shape[-2:]), truth)
    return bd.reporting.write_report(
        data,
        output,
        title=f"Dark matter from stars: {observed.description}",
        bounds=bounds_of(data),
        prior_draws={name: rng.uniform(*bound, size=4000) for name, bound in bounds_of(data).items()},
        notes=("Masses are log10 of those in Msun/h within the circles on the map.", *far_from_truth(data)),
        pictures=(
            Picture("maps", "Maps", lambda: maps_figure([row], list(discs.values())), MAPS_CAPTION),
            Picture("spectra", "Spectra", lambda: spectra_figure(row), SPECTRA_CAPTION),
        ),
    )


def bounds_of(data: xr.DataTree) -> dict[str, tuple[float, float]]:
    """Range of the prior of the parameters that were inferred."""
    return {name: bound for name, bound in PARAMETER_BOUNDS.items() if name in data["posterior"].data_vars}
