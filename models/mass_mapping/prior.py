"""Training recipe of the convergence prior: an unconditional diffusion in white noise.

The prior is one of the standardised logarithm of the convergence (:class:`models.mass_mapping.data.LogConvergence`).
Convergence has peaks of twenty standard deviations, which a flow from a Gaussian field turns into sharp bends; its
logarithm has none, so that the Gaussian twin, a lognormal field of convergence, is already near, and the network adds
to it little and smoothly.

The denoiser is Wiener-preconditioned about the mean and power of the training windows, which are not periodic; as in
:mod:`models.dust_cmb.prior` the power keeps its full two-dimensional shape, where the closing seam shows, and the
network is told where the seam lies. One spectrum is enough for all windows, because they are of one map.

**There is one training map**, of 84 x 84 pixels or less than two disjoint windows of 64 x 64. Shifts by single pixels,
the 36 positions of the coarse pixels and the symmetries of the square make many windows of it, but no new structure:
the prior knows the peaks of this map only, its largest scales have the variance of one realisation, and it may recall
the map instead of its law. So the network is small and the training short. The card tells how near draws are to the
nearest training window and how much better the denoiser is on the training map than on the held-out one.

What the network says of the largest scales is such a recollection. Of modes of |k| below 5.7 the map has fewer than two
hundred, and at noise of ten standard deviations no others are left. There the twin's filter is kept
(:data:`TWIN_BELOW`, :data:`TWIN_ABOVE`). The denoiser is better for it on the held-out map up to noise of three
standard deviations, worse by 2 % above, and the probability flow, which bent sharply along these modes, is smooth
enough to be sampled. Draws have fewer of the map's peaks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from bayesdiff.diffusion.denoiser import GaussianDenoiser, twin
from bayesdiff.diffusion.model import Card, DiffusionModel, load_model
from bayesdiff.diffusion.noise import WhiteNoise
from bayesdiff.diffusion.schedules import Cosine
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from bayesdiff.recalibration import with_twin_at_large_scales
from bayesdiff.training import TrainingSettings, settings_card, train
from bayesdiff.windows import MapWindows
from models.draws import draw_fields
from models.mass_mapping.data import PATCH_SIZE, PIXEL_ARCMIN, Convergence, LogConvergence, load_convergence
from models.mass_mapping.quality import compare_draws, denoising_table

NAME = "kappa-64"
SCHEDULE = Cosine(log_snr_max=10.0)
ARCHITECTURE = UNetConfig(
    in_channels=3, out_channels=1, channels=(8, 24, 48, 64), blocks=(1, 1, 2, 1), embedding=64, seam=True
)
SETTINGS = TrainingSettings(steps=200, pool_size=128, warmup_steps=100, ema_decay=0.98)
TWIN_BELOW = 0.088
"""Wavenumber [cycles per pixel] of the twin's large scales: two of the sixteen bands of the network's gain."""
TWIN_ABOVE = (3.0, 10.0)
"""Noise levels between which the network's correction fades to nothing."""


def training_windows(maps: Convergence | None = None) -> MapWindows:
    """Windows of the training map."""
    maps = load_convergence() if maps is None else maps
    return MapWindows(jnp.asarray(maps.training), PATCH_SIZE, periodic=(False, False))


def gaussian_field(windows: MapWindows) -> GaussianDenoiser:
    """The Gaussian field with the mean and power of the windows."""
    mean, power = windows.statistics()
    return GaussianDenoiser(power, mean)


def gaussian_convergence(maps: Convergence | None = None) -> GaussianDenoiser:
    """The Gaussian field with the mean and power of convergence itself: the prior of the Wiener reconstruction."""
    maps = load_convergence() if maps is None else maps
    return gaussian_field(MapWindows(maps.scale.convergence(maps.training), PATCH_SIZE, periodic=(False, False)))


def untrained_denoiser(windows: MapWindows, seed: int = 0) -> WienerDenoiser:
    """The Wiener filter of the training windows, with a network that gives zero."""
    return initialise(seed, gaussian_field(windows), ARCHITECTURE)


def make_prior(denoiser: WienerDenoiser | GaussianDenoiser, maps: Convergence, **card: Any) -> DiffusionModel:
    """The diffusion model around a denoiser; its card says how fields become convergence, and holds ``card``."""
    reference = twin(denoiser)
    assert isinstance(reference, GaussianDenoiser)
    size = int(reference.power.shape[-1])
    return DiffusionModel(
        denoiser=denoiser,
        schedule=SCHEDULE,
        noise=WhiteNoise(),
        event_shape=(1, size, size),
        name="x",
        card=Card({"log_convergence": maps.scale._asdict(), "pixel_arcmin": PIXEL_ARCMIN, **card}),
    )


def twin_prior() -> DiffusionModel:
    """The Gaussian twin of the trained prior; no network: a lognormal field of convergence."""
    maps = load_convergence()
    return make_prior(gaussian_field(training_windows(maps)), maps)


def convergence_scale(prior: DiffusionModel) -> LogConvergence:
    """How fields of a prior of this recipe become convergence, from its card.

    Raises:
        ValueError: the card does not say.
    """
    entries = prior.card.entries
    if "log_convergence" not in entries or entries.get("pixel_arcmin") != PIXEL_ARCMIN:
        raise ValueError(
            f"the prior must be one of convergence on pixels of {PIXEL_ARCMIN} arcmin, with log_convergence in its "
            f"card; its card has {', '.join(entries) or 'nothing'}"
        )
    return LogConvergence(**entries["log_convergence"])


def publish(denoiser: WienerDenoiser, settings: TrainingSettings, path: Path) -> DiffusionModel:
    """Measure a trained prior and write it with its card."""
    maps = load_convergence()
    model = make_prior(
        denoiser,
        maps,
        title="Weak-lensing convergence, 64 x 64 pixels of 1.74 arcmin",
        unit="standard deviation of log(1 + convergence / shift): convergence = shift (exp(mean + sd x) - 1), with the "
        "numbers of log_convergence",
        provenance="kappaTNG map of jax-lensing (MIT), averaged 6 x 6; its MassiveNuS map is held out",
        limits="one training map of fewer than two disjoint windows: the prior may recall it, see the distances to "
        "the nearest training window; one cosmology and one source redshift",
        command="python -m models train mass_mapping",
        training=settings_card(settings),
    )
    quality = {"draws": compare_draws(draw_fields(model, 128), maps), "denoising": denoising_table(model, maps)}
    model.save(path, quality=quality)
    return load_model(path)


def train_denoiser(settings: TrainingSettings, folder: Path) -> WienerDenoiser:
    """Run the recipe, continuing from the checkpoint in ``folder``."""
    windows = training_windows()
    denoiser = train(windows, untrained_denoiser(windows), SCHEDULE, WhiteNoise(), settings, folder)
    return with_twin_at_large_scales(denoiser, TWIN_BELOW, TWIN_ABOVE)
