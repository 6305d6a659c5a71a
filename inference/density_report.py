"""The report of a run on dark-matter fields: every estimator's contours and numbers, the maps and their spectrum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

import bayesdiff as bd
from bayesdiff.diffusion.noise import colour
from bayesdiff.fields import power_spectrum
from bayesdiff.reporting import Picture, Section
from bayesdiff.reporting.html_page import duration, table
from bayesdiff.reporting.parameters import scalar_truth
from bayesdiff.reporting.summary import format_value
from inference.folder import ESTIMATES
from inference.study import far_from_truth
from models.density_fields.data import PARAMETER_BOUNDS
from models.density_fields.model import NOISE_BOUNDS
from models.density_fields.observation import DensityFields, pixel_of
from models.density_fields.pictures import (
    CONTOURS_CAPTION,
    FIELDS_CAPTION,
    NOISY_FIELDS_CAPTION,
    SPECTRUM_CAPTION,
    Spectra,
    contours_figure,
    fields_figure,
    spectrum_figure,
)
from models.density_fields.prior import scale_of

NUM_SPECTRA, MOST_OBSERVED = 200, 2
_TIMES = ("preparation_seconds", "compile_seconds", "warmup_seconds", "sampling_seconds")


def bounds_of(noisy: bool) -> dict[str, tuple[float, float]]:
    """Range of the prior of every parameter."""
    return {**PARAMETER_BOUNDS, "noise_level": NOISE_BOUNDS} if noisy else dict(PARAMETER_BOUNDS)


def thinned(draws: Mapping[str, np.ndarray], num: int) -> dict[str, np.ndarray]:
    """``num`` of the draws (chain, draw), evenly over all, (num,) each."""
    size = next(iter(draws.values())).size
    places = np.linspace(0, size - 1, num + 2).astype(int)[1:-1]
    return {name: x.ravel()[places] for name, x in draws.items()}


def posteriors_of(data: xr.DataTree) -> dict[str, xr.Dataset]:
    """The posterior of every estimator by its label, the recommended first, with evaluations and seconds."""
    seconds = sum(float(data.attrs.get(name, 0.0)) for name in _TIMES)
    attributes = {"evaluations": data.attrs["evaluations"], "seconds": seconds, "remark": ""}
    found = {data.attrs["estimator"]: data["posterior"].to_dataset().assign_attrs(attributes)}
    others = data["estimators"].children if "estimators" in data.children else {}
    return found | {node.attrs["label"]: node.to_dataset() for node in others.values()}


def estimator_table(data: xr.DataTree) -> pd.DataFrame:
    """Mean, standard deviation and, where the truth is known, z of both parameters, with what each estimator took."""
    truth = scalar_truth(data)
    rows = {}
    for label, posterior in posteriors_of(data).items():
        row: dict[str, Any] = {}
        for name in PARAMETER_BOUNDS:
            mean, sd = float(posterior[name].mean()), float(posterior[name].std(ddof=1))
            z = (mean - truth[name]) / sd if name in truth and sd > 0 else np.nan
            row |= {f"{name}_mean": mean, f"{name}_sd": sd, f"{name}_z": z}
        rows[label] = row | {name: posterior.attrs[name] for name in ("evaluations", "seconds", "remark")}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "estimator"
    return table


def write_report(
    data: xr.DataTree,
    observed: DensityFields,
    prior: bd.DiffusionModel,
    noisy: bool,
    folder: Path,
    failed: Sequence[str] = (),
) -> Path:
    """Write summary.csv, verdict.txt, estimators.csv and the page; returns the page.

    Args:
        data: of :func:`inference.density_study.run_study`.
        observed: the fields.
        prior: conditional prior.
        noisy: whether the fields are in noise of unknown level.
        folder: where to write.
        failed: sentences on estimators that failed.
    """
    bounds = bounds_of(noisy)
    rng = np.random.default_rng(0)
    draws = {name: rng.uniform(*PARAMETER_BOUNDS[name], size=4000) for name in PARAMETER_BOUNDS}
    if noisy:
        draws["noise_level"] = np.exp(rng.uniform(*np.log(NOISE_BOUNDS), size=4000))
    compared = estimator_table(data)
    compared.to_csv(folder / ESTIMATES)
    truth = scalar_truth(data)
    pictures = (
        Picture("contours", "Every estimator", lambda: contours_figure(_draws_by_label(data), truth), CONTOURS_CAPTION),
        Picture(
            "fields",
            "Maps",
            lambda: fields_figure(_shown_maps(data, observed, prior, noisy), pixel_of(prior)),
            NOISY_FIELDS_CAPTION if noisy else FIELDS_CAPTION,
        ),
        Picture(
            "spectrum",
            "Power spectrum",
            lambda: spectrum_figure(_spectra(data, observed, prior, noisy)),
            SPECTRUM_CAPTION,
        ),
    )
    return bd.reporting.write_report(
        data,
        folder,
        title=f"Cosmology from dark matter: {observed.description}",
        bounds=bounds,
        parameters=tuple(bounds),
        prior_draws=draws,
        notes=(*far_from_truth(data), *observed.notes, *failed),
        pictures=pictures,
        sections=(Section("estimators", "Estimators", estimators_html(compared)),),
    )


def estimators_html(compared: pd.DataFrame) -> str:
    """The table of :func:`estimator_table`, with the digits that each number deserves."""
    with_truth = bool(compared[[f"{name}_z" for name in PARAMETER_BOUNDS]].notna().to_numpy().any())
    header = ["estimator", *PARAMETER_BOUNDS, *(f"z of {name}" for name in PARAMETER_BOUNDS if with_truth)]
    rows = []
    for label, row in compared.to_dict(orient="index").items():
        pairs = [(row[f"{name}_mean"], row[f"{name}_sd"]) for name in PARAMETER_BOUNDS]
        cells = [f"{format_value(mean, sd)} ± {format_value(sd, sd)}" for mean, sd in pairs]
        cells += [f"{row[f'{name}_z']:+.2f}" for name in PARAMETER_BOUNDS if with_truth]
        mark = " (*)" if row["remark"] else ""
        rows.append([f"{label}{mark}", *cells, f"{row['evaluations']:,}", duration(row["seconds"])])
    remarks = "".join(
        f"<p>(*) {label}: {remark}.</p>" for label, remark in compared["remark"].to_dict().items() if remark
    )
    return table((*header, "network evaluations", "time"), rows) + (
        "<p>Mean ± standard deviation; z is (mean − truth) / sd. Times include compilation. The same numbers, in full: "
        f"{ESTIMATES}.</p>{remarks}"
    )


def _draws_by_label(data: xr.DataTree) -> dict[str, dict[str, np.ndarray]]:
    return {
        label: {name: posterior[name].values for name in PARAMETER_BOUNDS}
        for label, posterior in posteriors_of(data).items()
    }


def _shown_maps(
    data: xr.DataTree, observed: DensityFields, prior: bd.DiffusionModel, noisy: bool
) -> list[tuple[str, np.ndarray]]:
    """Title and log10 surface density of what is shown: observed, behind the noise where it is known, drawn."""
    scale = scale_of(prior)

    def plane(field: np.ndarray) -> np.ndarray:
        return scale.mean + scale.sd * np.asarray(field, np.float64)[0]

    fields = observed.y.reshape(-1, *prior.event_shape)
    several = len(fields) > 1
    what = "observed, with noise" if noisy else "observed"
    shown = [(f"{what} {i + 1}" if several else what, plane(x)) for i, x in enumerate(fields[:MOST_OBSERVED])]
    if noisy and observed.truth and "x" in observed.truth:
        truth = np.asarray(observed.truth["x"]).reshape(-1, *prior.event_shape)[0]
        shown.append(("without noise" + (" 1" if several else ""), plane(truth)))
    if "examples" in data.children:
        examples = data["examples"].to_dataset()
        kind = "field behind it, draw" if noisy else "predictive draw"
        for index, field in enumerate(examples["field"].values):
            omega_m, sigma_8 = (float(examples[name][index]) for name in PARAMETER_BOUNDS)
            title = f"{kind} {index + 1}\n" rf"$\Omega_m$ = {omega_m:.3f}, $\sigma_8$ = {sigma_8:.3f}"
            shown.append((title, plane(field)))
    return shown


def _spectra(data: xr.DataTree, observed: DensityFields, prior: bd.DiffusionModel, noisy: bool) -> Spectra:
    """Spectra of the observed fields, of the twin at posterior draws and of the examples, in (Mpc/h)^2."""
    posterior = data["posterior"].to_dataset()
    names = bounds_of(noisy)
    chosen = thinned({name: posterior[name].transpose("chain", "draw").values for name in names}, NUM_SPECTRA)
    contexts = jnp.stack([jnp.asarray(chosen[name], jnp.float32) for name in PARAMETER_BOUNDS], axis=1)
    levels = jnp.asarray(chosen["noise_level"] if noisy else np.zeros(NUM_SPECTRA), jnp.float32)
    fields = jnp.asarray(observed.y).reshape(-1, *prior.event_shape)

    def spectrum(fields: jax.Array) -> jax.Array:
        return jnp.mean(power_spectrum(fields).power[..., 0, :], axis=0)

    @jax.jit
    def drawn(key: jax.Array, context: jax.Array, s: jax.Array) -> jax.Array:
        twin = prior.twin_at(context)
        assert twin is not None
        total = jnp.broadcast_to(twin.power + s**2 * prior.noise_power(context), prior.event_shape)
        return spectrum(colour(jax.random.normal(key, fields.shape), total))

    keys = jax.random.split(jax.random.key(0), NUM_SPECTRA)
    twin = np.stack([np.asarray(drawn(*each)) for each in zip(keys, contexts, levels, strict=True)])
    examples = (
        data["examples"].to_dataset()["field"].values if "examples" in data.children and not noisy else np.zeros((0,))
    )
    pixel = pixel_of(prior)
    unit = scale_of(prior).sd ** 2 * pixel**2
    k = np.asarray(power_spectrum(fields[0]).centers) * 2.0 * np.pi / (pixel * prior.event_shape[-1])
    of_examples = [np.asarray(spectrum(jnp.asarray(x)[None])) for x in examples]
    shape = (len(of_examples), len(k))
    return Spectra(k, unit * np.asarray(spectrum(fields)), unit * twin, unit * np.reshape(of_examples, shape))
