"""Training recipe of the conditional prior whose answer is known.

The recipe is that of :mod:`models.density_fields`: a Gaussian family fitted to the training fields, which knows nothing
of the true power law, and a network for what is beyond it. Here there is nothing beyond it: what the network adds is
error, and this problem measures what such errors do to a posterior.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.gaussian_family import fit_gaussian_family
from bayesdiff.diffusion.model import DiffusionModel, load_model
from bayesdiff.diffusion.noise import WhiteNoise
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from bayesdiff.training import TrainingSettings, settings_card, train
from bayesdiff.windows import LabelledFields
from models.gaussian_fields.data import NUM_TRAINING, PARAMETER_BOUNDS, make_diffusion, simulate

ARCHITECTURE = UNetConfig(in_channels=3, out_channels=1, channels=(24, 48), blocks=(1, 1), embedding=64, patch=2)
SETTINGS = TrainingSettings(steps=1500, warmup_steps=200, ema_decay=0.998)
TRAINING_SEED = 1


def untrained_denoiser(fields: np.ndarray, parameters: np.ndarray) -> WienerDenoiser:
    """The Wiener filter of the training fields, with a network that gives zero."""
    low, high = zip(*PARAMETER_BOUNDS.values(), strict=True)
    return initialise(0, fit_gaussian_family(fields, parameters, low, high), ARCHITECTURE, low, high)


def train_denoiser(settings: TrainingSettings, folder: Path) -> WienerDenoiser:
    """Run the recipe, continuing from the checkpoint in ``folder``."""
    fields, parameters = simulate(TRAINING_SEED, NUM_TRAINING)
    denoiser = untrained_denoiser(fields, parameters)
    labelled = LabelledFields(jnp.asarray(fields), jnp.asarray(parameters, dtype=jnp.float32))
    schedule = make_diffusion(denoiser).schedule
    return train(labelled, denoiser, schedule, WhiteNoise(), settings, folder)


def publish(denoiser: WienerDenoiser, settings: TrainingSettings, path: Path) -> DiffusionModel:
    """Write a trained prior with its card."""
    model = make_diffusion(
        denoiser,
        title="Gaussian fields with power A (k / 8)^-n, 64 x 64 pixels: a conditional prior with a known answer",
        provenance=f"{NUM_TRAINING} fields drawn from the closed form, parameters uniform in their box",
        command="python -m models train gaussian_fields",
        training=settings_card(settings),
    )
    model.save(path)
    return load_model(path)
