"""Training recipe of the dust prior: a diffusion whose noise is CMB and instrument noise, conditioned on the cosmology.

The denoiser is Wiener-preconditioned about the mean and power of the training windows. Windows are cut from larger
maps and so are not periodic: the power keeps its full two-dimensional shape, where the closing seam shows, and the
network is told where the seam lies. The power of a window varies by a factor of twenty, so the filter is that of a
mixture of spectra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bayesdiff.cosmology import dust_cmb_noise_components
from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.model import Card, DiffusionModel, load_model
from bayesdiff.diffusion.noise import StationaryNoise
from bayesdiff.diffusion.schedules import Cosine
from bayesdiff.networks.spectral_mixture import fit_spectral_mixture
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from bayesdiff.recalibration import with_contrast
from bayesdiff.training import TrainingSettings, settings_card, train
from bayesdiff.windows import MapWindows
from models.draws import draw_fields
from models.dust_cmb.data import PATCH_SIZE, PIXEL_ARCMIN, load_dust_maps
from models.dust_cmb.quality import compare_draws, denoising_table

SCHEDULE = Cosine(log_snr_max=10.0)
ARCHITECTURE = UNetConfig(in_channels=3, out_channels=1, channels=(16, 48, 96, 128), blocks=(1, 2, 2, 2), seam=True)
# The first 9,000 steps of the shipped weights were taken about the mean spectrum alone (3,600 with equal weights of all
# modes, 7,400 with every window its own target); the optimiser was then started afresh.
SETTINGS = TrainingSettings(steps=13400)
CONTRAST = 1.08
CONTEXT_BOUNDS = {"H0": (50.0, 90.0), "omega_b": (0.0075, 0.0567)}


def noise(size: int = PATCH_SIZE) -> StationaryNoise:
    """CMB of unit variance and instrument noise of rms 0.1 of it, for ``size`` x ``size`` pixels of 8 arcmin."""
    return StationaryNoise(dust_cmb_noise_components((size, size), PIXEL_ARCMIN))


def training_windows() -> MapWindows:
    """The training maps, windows wrapping around in columns only."""
    return MapWindows(jnp.asarray(load_dust_maps().training), PATCH_SIZE, periodic=(False, True))


def untrained_denoiser(windows: MapWindows, seed: int = 0) -> WienerDenoiser:
    """The Wiener filter of the training windows, with a network that gives zero."""
    mean, power = windows.statistics()
    low, high = zip(*CONTEXT_BOUNDS.values(), strict=True)
    reference = GaussianDenoiser(power, mean)
    fields = jax.vmap(windows.draw)(jax.random.split(jax.random.key(seed), 4096))
    return initialise(seed, reference, ARCHITECTURE, low, high, fit_spectral_mixture(fields, reference))


def make_prior(denoiser: WienerDenoiser, **card: Any) -> DiffusionModel:
    """The diffusion model around a trained denoiser; ``card`` is what its card says of it."""
    return DiffusionModel(
        denoiser=denoiser,
        schedule=SCHEDULE,
        noise=noise(),
        event_shape=(1, PATCH_SIZE, PATCH_SIZE),
        context_names=tuple(CONTEXT_BOUNDS),
        context_bounds=tuple(CONTEXT_BOUNDS.values()),
        name="dust",
        card=Card(card),
    )


def publish(denoiser: WienerDenoiser, settings: TrainingSettings, path: Path) -> DiffusionModel:
    """Measure a trained prior and write it with its card."""
    model = make_prior(
        with_contrast(denoiser, CONTRAST),
        title="Thermal dust intensity, 64 x 64 pixels of 8 arcmin, noised by CMB and instrument noise",
        pixel_arcmin=PIXEL_ARCMIN,
        unit="standard deviation of a map (its training rows), mean subtracted",
        standardisation="subtract the mean of the whole map and divide by its standard deviation",
        noise_rms="instrument noise of rms 0.1 of the CMB rms",
        provenance="MHD simulation maps I_1 and I_2 of pywph (BSD-3-Clause), rows 256 to 383 held out",
        command="python -m models train dust_cmb",
        training=settings_card(settings),
        contrast=f"in draws, the network raised by {CONTRAST:g} above s = 1, chosen by the power of 192 draws",
    )
    quality = {"draws": compare_draws(draw_fields(model)), "denoising": denoising_table(model)}
    model.save(path, quality=quality)
    return load_model(path)


def train_denoiser(settings: TrainingSettings, folder: Path) -> WienerDenoiser:
    """Run the recipe, continuing from the checkpoint in ``folder``."""
    windows = training_windows()
    return train(windows, untrained_denoiser(windows), SCHEDULE, noise(), settings, folder)
