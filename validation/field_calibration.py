"""Calibration of a model of one noisy field: ranks of its parameters, checks of its fields, and their page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.calibration import FieldChecks, Sbc, check_fields, tarp
from bayesdiff.diffusion.noise import colour
from bayesdiff.diffusion.samplers import ancestral_draw
from models.draws import BAND_EDGES
from validation.figures import Figure, above, below
from validation.ranked import LEVELS, quantity_figures

NUM_DRAWS = 39
FIELD = "field"
"""Site of the true field in what a simulator returns."""


class Campaign(NamedTuple):
    """What is calibrated, and at what length.

    Attributes:
        key: seed of every random number.
        model: NumPyro model whose observed site is ``y`` and that integrates a field out.
        algorithm: of its posterior.
        simulator: key -> its parameters, ``y`` and the true field.
        latent: name of the field's draws, or several.
        num: simulations.
        num_fields: of them whose fields are drawn.
        title: of the page.
        about: a note on it.
        truth: name of the true field in what the simulator returns; of several fields as many as ``latent``.
        channels: names of the channels of the field, or fields, for the page.
    """

    key: int
    model: Callable[..., Any]
    algorithm: Any
    simulator: Callable[[jax.Array], dict[str, jax.Array]]
    latent: str | tuple[str, ...]
    num: int
    num_fields: int
    title: str
    about: str
    truth: str | tuple[str, ...] = FIELD
    channels: tuple[str, ...] | None = None


def calibrate(campaign: Campaign, folder: Path) -> tuple[Sbc, FieldChecks]:
    """The study, the checks of the fields of its first simulations, and their page. Both continue where they were."""
    key, model, simulator = jax.random.key(campaign.key), campaign.model, campaign.simulator
    study = bd.calibration.sbc(
        key,
        model,
        algorithm=campaign.algorithm,
        num_simulations=campaign.num,
        simulator=simulator,
        store=folder / "study.sbc",
    )
    truth, draws = bd.calibration.study_fields(
        key,
        model,
        study,
        simulator=simulator,
        truth=campaign.truth,
        field=campaign.latent,
        num_fields=campaign.num_fields,
        num_draws=NUM_DRAWS,
        store=folder / "fields",
    )
    fields = check_fields(truth, draws, edges=BAND_EDGES, levels=LEVELS, channels=campaign.channels)
    bd.reporting.write_calibration_report(study, folder, title=campaign.title, notes=(campaign.about,), fields=fields)
    return study, fields


def uniform(key: jax.Array, bounds: dict[str, tuple[float, float]]) -> dict[str, jax.Array]:
    """Parameters from the uniform prior of a model."""
    keys = jax.random.split(key, len(bounds))
    return {
        name: jax.random.uniform(k, minval=low, maxval=high)
        for k, (name, (low, high)) in zip(keys, bounds.items(), strict=True)
    }


def observe(
    key: jax.Array, prior: bd.DiffusionModel, x: jax.Array, level: jax.Array, context: jax.Array
) -> dict[str, jax.Array]:
    """A field in the noise of its prior at a level."""
    noise = colour(jax.random.normal(key, x.shape), prior.noise_power(context))
    return {FIELD: x, "y": x + level * noise}


def own_field(prior: bd.DiffusionModel, key: jax.Array, context: jax.Array | None = None) -> jax.Array:
    """A draw of the prior by the reverse process."""
    return ancestral_draw(key, prior, prior.context_array(None) if context is None else context)


def of_study(name: str, study: Sbc, required: bool) -> list[Figure]:
    """Figures of the parameters; with ``required`` ranks and TARP must pass and next to none may fail."""
    joint = tarp(study.truth[study.ranked], study.draws[study.ranked])
    smallest, failed = float(study.tests.adjusted.min()), len(study.failed) / study.num_simulations
    label = f"{name}: smallest adjusted p-value of the ranks, {study.num_simulations} simulations"
    label_failed = f"{name}: part of the simulations that failed"
    label_tarp = f"{name}: TARP of the parameters: p-value"
    return [
        above(label, smallest, 0.01) if required else Figure(label, smallest),
        below(label_failed, failed, 0.05) if required else Figure(label_failed, failed),
        *quantity_figures(name, study),
        *quarter_figures(name, study),
        above(label_tarp, joint.adjusted, 0.01) if required else Figure(label_tarp, joint.adjusted),
        Figure(f"{name}: TARP area of the parameters", joint.area),
    ]


def quarter_figures(name: str, study: Sbc) -> list[Figure]:
    """Mean z where the truth is in its lowest and in its highest quarter: errors that cancel in the mean of all."""
    figures = []
    for i, parameter in enumerate(study.names):
        truth, z = study.truth[:, i], study.z[:, i]
        low, high = np.quantile(truth, (0.25, 0.75))
        for side, some in (("lowest", truth <= low), ("highest", truth >= high)):
            figures.append(Figure(f"{name}: {parameter}: mean z, {side} quarter", float(np.nanmean(z[some]))))
    return figures


def of_fields(name: str, fields: FieldChecks, required: bool) -> list[Figure]:
    """Figures of the fields, and their coverage in every band; with ``required`` every check must pass."""
    observed, spread = fields.bands.coverage.observed, fields.bands.spread.z
    several = len(fields.channels) > 1
    labels = [f"coverage of modes, {channel}" if several else "coverage of modes" for channel in fields.channels]
    for label, shares, z in zip(labels, observed, spread, strict=True):
        table = Table("|k|", *(f"{level:.0%}" for level in LEVELS), "spread [s.e.]", title=f"{name}: {label}")
        for k, share, band in zip(fields.bands.centers, shares, z, strict=True):
            table.add_row(f"{k:.1f}", *(f"{x:.3f}" for x in share), f"{band:+.1f}")
        Console(width=100).print(table)
    print(fields.verdict())
    figures = []
    for check, p in fields.p_values().items():
        label = f"{name}: {check} of {fields.num_simulations} fields: p-value"
        figures.append(above(label, p, 0.01 / len(fields.p_values())) if required else Figure(label, p))
    for label, shares in zip(labels, observed, strict=True):
        for i, level in enumerate(LEVELS):
            band = int(np.argmax(np.abs(shares[:, i] - level)))
            value = f"{shares[band, i]:.3f} at |k| of {fields.bands.centers[band]:.1f}"
            figures.append(Figure(f"{name}: {level:.0%} {label}: the band farthest from it", value))
    return [*figures, Figure(f"{name}: TARP area of fields", fields.tarp.area)]
