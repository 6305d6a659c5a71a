"""The two baselines of dark-matter fields, fitted on the prior's training fields and kept in one file beside this one.

They see the same standardised fields as the prior (:mod:`models.density_fields.prior`), of the same simulations, and
are measured on one map of each of the 150 simulations that neither has seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from bayesdiff.diffusion.storage import read_tensors
from bayesdiff.training import settings_card
from bayesdiff.training_loop import TrainingSettings, from_named_arrays, named_arrays
from bayesdiff.windows import LabelledFields
from models.density_fields.data import MAPS_PER_SIMULATION, PARAMETER_BOUNDS, PIXEL, Standardisation
from models.density_fields.power_spectrum import (
    Moments,
    PowerSpectrumBaseline,
    fit_power_spectrum,
    posterior_moments,
    untrained_power_spectrum,
)
from models.density_fields.prior import load_fields
from models.density_fields.regression import SETTINGS as SETTINGS
from models.density_fields.regression import RegressionBaseline, predict, train_regression, untrained_regression

NAME = "density-baselines"
WEIGHTS = Path(__file__).with_name("baselines.safetensors")
FORMAT = 1
COMMAND = "python -m models train density_baselines"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Baselines:
    """Both baselines of one set of training fields.

    Attributes:
        power_spectrum: the Gaussian likelihood of mean and power spectrum.
        regression: the network.
    """

    power_spectrum: PowerSpectrumBaseline
    regression: RegressionBaseline


def train_baselines(settings: TrainingSettings, folder: Path) -> Baselines:
    """Run the recipe, continuing the network's training from the checkpoint in ``folder``."""
    fields = load_fields().training
    regression = train_regression(fields, untrained_regression(settings.seed), settings, folder)
    return Baselines(fit_power_spectrum(np.asarray(fields.fields), np.asarray(fields.contexts, np.float64)), regression)


def publish(baselines: Baselines, settings: TrainingSettings, path: Path = WEIGHTS) -> Baselines:
    """Measure baselines on held-out simulations and write them with their card."""
    fields = load_fields()
    save_baselines(
        baselines,
        fields.scale,
        path,
        title="Baselines of dark-matter fields: likelihood of mean and power spectrum; moment network",
        provenance="python -m models simulate: a Latin hypercube in Omega_m and sigma_8, its last 150 simulations held "
        "out",
        command=COMMAND,
        training=settings_card(settings),
        held_out=measure(baselines, fields.held_out),
    )
    return load_baselines(path)


def one_map_each(fields: LabelledFields, offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One field of every simulation, in turn each of its 15 from ``offset`` on, and its parameters."""
    simulation = np.arange(len(fields.fields) // MAPS_PER_SIMULATION)
    chosen = MAPS_PER_SIMULATION * simulation + (simulation + offset) % MAPS_PER_SIMULATION
    return np.asarray(fields.fields)[chosen], np.asarray(fields.contexts, np.float64)[chosen]


def measure(baselines: Baselines, held_out: LabelledFields) -> dict[str, Any]:
    """How good the posteriors of held-out fields are, one of each simulation; see :func:`errors`."""
    fields, parameters = one_map_each(held_out)
    spectrum = baselines.power_spectrum
    table: dict[str, Any] = {"fields": len(fields)}
    for name, baseline in (
        ("mean_and_spectrum", spectrum),
        ("mean", spectrum.restricted(spectrum=False)),
        ("spectrum", spectrum.restricted(mean=False)),
    ):
        table[name] = errors(posterior_moments(baseline, fields), parameters)
    return table | {"regression": errors(predict(baselines.regression, fields), parameters)}


def errors(moments: Moments, parameters: np.ndarray) -> dict[str, dict[str, float]]:
    """Of each parameter: mean |z| (0.80 of a calibrated normal posterior), mean z, rms error and mean width."""
    error = moments.mean - parameters
    z = error / moments.sd
    columns = {
        "mean_abs_z": np.abs(z).mean(axis=0),
        "mean_z": z.mean(axis=0),
        "within_1_sd": (np.abs(z) < 1.0).mean(axis=0),
        "within_2_sd": (np.abs(z) < 2.0).mean(axis=0),
        "rms_error": np.sqrt((error**2).mean(axis=0)),
        "mean_sd": moments.sd.mean(axis=0),
    }
    return {
        name: {key: float(f"{values[axis]:.4g}") for key, values in columns.items()}
        for axis, name in enumerate(PARAMETER_BOUNDS)
    }


def save_baselines(baselines: Baselines, scale: Standardisation, path: Path, **entries: Any) -> None:
    """Write ``path`` and its card, of the same name with the ending .json; ``entries`` stand in the card."""
    spectrum, regression = baselines.power_spectrum, baselines.regression
    weights = save({name: np.asarray(value, np.float32) for name, value in named_arrays(baselines).items()})
    card = {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "size": spectrum.size,
        "num_bins": spectrum.num_bins,
        "channels": list(regression.channels),
        "parameter_bounds": {name: list(bounds) for name, bounds in PARAMETER_BOUNDS.items()},
        "log10_surface_density": scale._asdict(),
        "pixel_mpc_h": PIXEL,
        **entries,
    }
    for file, content in ((path, weights), (path.with_suffix(".json"), json.dumps(card, indent=1).encode())):
        partial = file.with_name(file.name + ".partial")
        partial.write_bytes(content)
        os.replace(partial, file)


def load_baselines(path: Path = WEIGHTS) -> Baselines:
    """Both baselines, by default those that come with the project.

    Raises:
        FileNotFoundError: the file or its card is missing.
        ValueError: the file is not the one its card describes, or is for another box of parameters.
    """
    card = read_card(path)
    try:
        arrays = read_tensors(path, card["weights_sha256"])
    except ValueError as error:
        raise ValueError(f"{error}; {COMMAND} makes both anew") from None
    channels = tuple(card["channels"])
    template = jax.eval_shape(
        lambda: Baselines(
            untrained_power_spectrum(card["size"], card["num_bins"]), untrained_regression(channels=channels)
        )
    )
    try:
        return from_named_arrays(template, arrays)
    except ValueError as error:
        raise ValueError(f"{path} does not have the arrays of its card: {error}") from None


def scale_of(path: Path = WEIGHTS) -> Standardisation:
    """How surface densities become the fields of stored baselines; that of a prior must be the same."""
    return Standardisation(**read_card(path)["log10_surface_density"])


def read_card(path: Path = WEIGHTS) -> dict[str, Any]:
    """The card of stored baselines: what they are, how they were made and how good they are.

    Raises:
        FileNotFoundError: the file or its card is missing.
        ValueError: the card is damaged, of another format, or for another box of parameters.
    """
    card_path = path.with_suffix(".json")
    for file in (path, card_path):
        if not file.is_file():
            raise FileNotFoundError(f"the baselines need {file}, which is missing; {COMMAND} makes it")
    try:
        card = json.loads(card_path.read_text())
    except ValueError as error:
        raise ValueError(f"{card_path} is not readable as JSON ({error}); the card is damaged") from None
    found = card.get("format") if isinstance(card, dict) else type(card).__name__
    if found != FORMAT:
        raise ValueError(f"{card_path} must be a card of baselines of format {FORMAT}, got format {found!r}")
    needed = ("weights_sha256", "size", "num_bins", "channels", "parameter_bounds", "log10_surface_density")
    if missing := [key for key in needed if key not in card]:
        raise ValueError(f"{card_path} lacks the entries {missing}")
    expected = {name: list(bounds) for name, bounds in PARAMETER_BOUNDS.items()}
    if card["parameter_bounds"] != expected:
        raise ValueError(f"{card_path} is for the box {card['parameter_bounds']}, expected {expected}")
    return card
