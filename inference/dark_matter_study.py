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
from models.dark_matter.model import cosmology_given, draw
from models.dark_matter.pictures import MAPS_CAPTION, SPECTRA_CAPTION, Reconstruction, maps_figure, spectra_figure
from models.dark_matter.prior import scales_of
from models.dark_matter.regions import mass_in
from models.density_fields.data import PARAMETER_BOUNDS

if TYPE_CHECKING:
    from models.dark_matter.observation import Stars

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
        settings: ``num_draws``, ``cosmology`` and ``seed``; all are kept with the result.
        progress: show progress bars.

    Returns:
        A result with ``log10_mass_<region>`` [Msun/h] and, with it, Omega_m and sigma_8 in ``posterior``, the fields,
        log10 of the surface density, in ``fields`` and what is known of the truth in ``truth``. Interrupted after the
        first draws it holds those and says so in ``status``.
    """
    field_key, cosmology_key = jax.random.split(jax.random.key(settings["seed"]))
    fields: list[np.ndarray] = []
    cosmologies: list[xr.DataTree] = []
    status, chunks = "complete", -(-settings["num_draws"] // CHUNK)
    try:
        with Progress(disable=not progress) as bar:
            for index in bar.track(range(chunks), description="Dark matter"):
                fields.append(draw(jax.random.fold_in(field_key, index), reconstruction, observed.stars, CHUNK))
            if settings["cosmology"]:
                emulator = bd.load_pretrained("density-fields-64")
                found = cosmology_given(
                    cosmology_key, reconstruction, emulator, observed.stars, settings["cosmology"], progress=False
                )
                cosmologies.extend(bar.track(found, total=settings["cosmology"], description="Cosmology"))
    except KeyboardInterrupt:
        if not fields:
            raise
        status = "interrupted"
    scale = scales_of(reconstruction).density
    logs = scale.mean + scale.sd * np.concatenate(fields)[: settings["num_draws"] // NUM_CHAINS * NUM_CHAINS]
    logs = logs.reshape(NUM_CHAINS, -1, *logs.shape[1:])
    return _result(logs, observed, discs, cosmologies, settings | {"status": status})


def _result(
    logs: np.ndarray,
    observed: Stars,
    discs: dict[str, np.ndarray],
    cosmologies: list[xr.DataTree],
    settings: dict[str, Any],
) -> xr.DataTree:
    """The result of draws (chain, draw, 1, H, W) of log10 of the surface density."""
    dims = ("chain", "draw")
    posterior = {f"log10_mass_{n}": (dims, np.log10(mass_in(10.0 ** logs[:, :, 0], r))) for n, r in discs.items()}
    truth: dict[str, Any] = {}
    if observed.density is not None:
        truth = {f"log10_mass_{n}": np.log10(float(mass_in(observed.density, r))) for n, r in discs.items()}
        truth["dark_matter"] = (("channel", "row", "column"), np.log10(observed.density)[None])
    if cosmologies:
        num = logs.shape[1]
        for name in PARAMETER_BOUNDS:
            pooled = np.concatenate([np.ravel(np.asarray(run["posterior"][name])) for run in cosmologies])
            # In an order in which every chain has draws of every field, as it has of every mass.
            mixed = np.random.default_rng(0).permutation(pooled)[: NUM_CHAINS * num]
            posterior[name] = (dims, np.resize(mixed, (NUM_CHAINS, num)))
        truth |= observed.parameters or {}
    fields = xr.Dataset({"dark_matter": ((*dims, "channel", "row", "column"), logs.astype(np.float32))})
    accepted = all(bool(run.attrs["surrogate_converged"]) for run in cosmologies)
    data = xr.DataTree.from_dict({
        "posterior": xr.Dataset(posterior),
        "fields": fields,
        "observed_data": xr.Dataset({"stars": (("row", "column"), observed.stars)}),
        **({"truth": xr.Dataset(truth)} if truth else {}),
    })  # fmt: skip
    data.attrs |= {
        "algorithm": "independent draws of the reconstruction",
        "settings": json.dumps(settings),
        "surrogate_converged": int(accepted),
        "notes": json.dumps(_notes(cosmologies)),
        **{name: settings[name] for name in ("status", "command", "seed", "model_hash")},
    }
    return data


def _notes(cosmologies: list[xr.DataTree]) -> list[str]:
    """How well a posterior that is the mean over a few drawn fields is known."""
    if len(cosmologies) < 2:
        return []
    errors = []
    for name in PARAMETER_BOUNDS:
        draws = np.stack([np.ravel(np.asarray(run["posterior"][name])) for run in cosmologies])
        error = draws.mean(axis=1).std(ddof=1) / np.sqrt(len(draws))
        errors.append(f"{error / draws.std():.2f} of {name}")
    return [
        f"The cosmology is the mean over {len(cosmologies)} drawn fields, whose posteriors differ: the Monte Carlo "
        f"error of its means is {' and '.join(errors)}, in posterior standard deviations."
    ]


def write_results(data: xr.DataTree, observed: Stars, discs: dict[str, np.ndarray], output: Path) -> Path:
    """Write posterior.zarr, summary.csv, verdict.txt and the page; returns the page."""
    save(data, output)
    drawn = np.asarray(data["fields"]["dark_matter"])
    truth = None if observed.density is None else np.log10(observed.density)
    row = Reconstruction(observed.stars, drawn.reshape(-1, *drawn.shape[-2:]), truth)
    return bd.reporting.write_report(
        data,
        output,
        title=f"Dark matter from stars: {observed.description}",
        bounds=bounds_of(data),
        notes=(*far_from_truth(data), *json.loads(data.attrs["notes"])),
        pictures=(
            Picture("maps", "Maps", lambda: maps_figure([row], list(discs.values())), MAPS_CAPTION),
            Picture("spectra", "Spectra", lambda: spectra_figure(row), SPECTRA_CAPTION),
        ),
    )


def bounds_of(data: xr.DataTree) -> dict[str, tuple[float, float]]:
    """Range of the prior of the parameters that were inferred."""
    return {name: bound for name, bound in PARAMETER_BOUNDS.items() if name in data["posterior"].data_vars}
