"""Training recipe of the reconstruction: a diffusion p(dark matter | stars), after Ono et al. (2024, arXiv:2403.10648).

Its twin is the linear reconstruction of the logarithm of the surface density from the logarithm of the stars
(:mod:`bayesdiff.diffusion.reconstruction`); a convolutional network without attention, which sees the stars, corrects
it. The noise schedule is that of the published model, linear in the log-SNR, whose ends are learned from 13.3 and -13.3
on. A denoiser knows of a schedule only the noise levels, and most of that range holds nothing to learn, so the network
is trained on a narrower one, and the ends of the schedule by the bound once it is trained: of a schedule the bound in
continuous time knows nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.bound_terms import bound_slopes
from bayesdiff.diffusion.denoiser import Denoiser
from bayesdiff.diffusion.model import Card, DiffusionModel, load_model
from bayesdiff.diffusion.noise import WhiteNoise
from bayesdiff.diffusion.reconstruction import GivenMaps, fit_linear_reconstruction
from bayesdiff.diffusion.schedules import Cosine, LearnedLinear
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from bayesdiff.training import TrainingSettings, settings_card, train
from bayesdiff.windows import PairedFields
from models.dark_matter.data import Scales, StellarScale, load_pairs
from models.dark_matter.quality import reconstruction_errors
from models.density_fields.data import PIXEL, SIZE, Standardisation

NAME = "dark-matter-64"
SIMULATIONS = Path("build/density_fields")
SUITE = "JaxPM-power"
SCHEDULE = LearnedLinear(gamma_min=-13.3, gamma_max=13.3)
TRAINING_SCHEDULE = Cosine(log_snr_max=12.0)
ARCHITECTURE = UNetConfig(
    in_channels=6,
    out_channels=1,
    channels=(32, 64, 96),
    blocks=(1, 2, 2),
    embedding=96,
    attention=False,
    patch=2,
)
SETTINGS = TrainingSettings(steps=3200)
END_STEPS, END_RATE, END_FIELDS = 800, 10.0, 4
"""Of the ends of the schedule: steps, units of gamma per nat and pixel, and fields of a step."""


def untrained_denoiser(pairs: PairedFields) -> WienerDenoiser:
    """The linear reconstruction of the training fields, with a network that gives zero."""
    reference = fit_linear_reconstruction(np.asarray(pairs.fields), np.asarray(pairs.maps))
    return initialise(0, reference, ARCHITECTURE)


def make_prior(denoiser: Denoiser, scales: Scales, schedule: LearnedLinear = SCHEDULE, **card: Any) -> DiffusionModel:
    """The diffusion model around a denoiser; its card holds the scales and ``card``."""
    return DiffusionModel(
        denoiser=denoiser,
        schedule=schedule,
        noise=WhiteNoise(),
        event_shape=(1, SIZE, SIZE),
        card=Card(
            {
                "log10_surface_density": scales.density._asdict(),
                "stars": scales.stars._asdict(),
                "pixel_mpc_h": PIXEL,
                **card,
            }
        ),
    )


def scales_of(model: DiffusionModel) -> Scales:
    """How stars are shown to a reconstruction, and what its fields mean, from its card.

    Raises:
        ValueError: the card does not say.
    """
    entries = model.card.entries
    if "stars" not in entries or "log10_surface_density" not in entries:
        raise ValueError(
            "the model must be a reconstruction of dark matter, with stars and log10_surface_density in its card; its "
            f"card has {', '.join(entries) or 'nothing'}"
        )
    stars = entries["stars"]
    scale = StellarScale(stars["unit"], tuple(stars["mean"]), tuple(stars["sd"]))
    return Scales(Standardisation(**entries["log10_surface_density"]), scale)


def train_denoiser(
    settings: TrainingSettings, checkpoints: Path, folder: Path = SIMULATIONS, suite: str = SUITE
) -> WienerDenoiser:
    """Run the recipe on a suite of ``folder``, continuing from the checkpoint in ``checkpoints``."""
    training = load_pairs(folder, suite).split()[0]
    paired = Scales.of(training).paired(training)
    return train(paired, untrained_denoiser(paired), TRAINING_SCHEDULE, WhiteNoise(), settings, checkpoints)


def learn_ends(
    denoiser: WienerDenoiser, pairs: PairedFields, start: LearnedLinear = SCHEDULE, steps: int = END_STEPS
) -> LearnedLinear:
    """The schedule whose ends the bound has moved, by gradient descent on random training fields.

    With an exact denoiser a wider range would never be worse, and ever less better. A network pays for noise levels
    below those of its training, so the lower end has an optimum. Steps are in proportion to the gain, not of one size
    as those of an adaptive optimiser, which would move the upper end for nothing.
    """

    def slopes(key: jax.Array, ends: jax.Array) -> jax.Array:
        key_pair, key_noise = jax.random.split(key)
        x, _, maps = pairs.choose(key_pair)
        assert maps is not None
        model = DiffusionModel(GivenMaps(denoiser, maps), start, WhiteNoise(), (1, x.shape[1], x.shape[2]))
        return bound_slopes(key_noise, model, x, ends[0], ends[1]) / x.size

    def step(ends: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        mean = jax.lax.map(lambda k: slopes(k, ends), jax.random.split(key, END_FIELDS)).mean(axis=0)
        return ends - END_RATE * mean, None

    first = jnp.array([start.gamma_min, start.gamma_max])
    last, _ = jax.jit(lambda ends, keys: jax.lax.scan(step, ends, keys))(
        first, jax.random.split(jax.random.key(3), steps)
    )
    return LearnedLinear(float(last[0]), float(last[1]))


def measure(path: Path, folder: Path = SIMULATIONS, suite: str = SUITE) -> DiffusionModel:
    """Learn the ends of the schedule of a trained reconstruction anew, and write them into its card.

    Args:
        path: folder of the model.
        folder: of the maps that it was trained on.
        suite: whose.

    Raises:
        FileNotFoundError: model or maps are not there.
        ValueError: stars and dark matter are shown to it by other numbers than those of these maps.
    """
    model, training = load_model(path), load_pairs(folder, suite).split()[0]
    if not np.allclose(_numbers(scales_of(model)), _numbers(Scales.of(training)), rtol=1e-3):
        raise ValueError(
            f"the reconstruction in {path} has the scales {scales_of(model)}, its training maps {Scales.of(training)}; "
            "measure it on its own training maps"
        )
    denoiser: Any = model.denoiser
    schedule = learn_ends(denoiser, scales_of(model).paired(training))
    replace(model, schedule=schedule).save(path)
    return load_model(path)


def _numbers(scales: Scales) -> list[float]:
    return [*scales.density, scales.stars.unit, *scales.stars.mean, *scales.stars.sd]


def publish(
    denoiser: WienerDenoiser,
    settings: TrainingSettings,
    path: Path,
    folder: Path = SIMULATIONS,
    suite: str = SUITE,
) -> DiffusionModel:
    """Measure a trained reconstruction and write it with its card."""
    training, held_out = load_pairs(folder, suite).split()
    scales = Scales.of(training)
    schedule = learn_ends(denoiser, scales.paired(training))
    own = {
        "provenance": "python -m models simulate, python -m models simulate --stars: a Latin hypercube in Omega_m and "
        "sigma_8, stars by the recipe 'power' with varied feedback, the last 150 simulations held out",
        "limits": "stars in units of a galaxy's mean mass, 2 galaxies per (Mpc/h)^3; others must be brought to that",
        "command": "python -m models train dark_matter",
    }
    other = {
        "provenance": f"maps Mcdm and Mstar of the suite {suite}, the last 150 simulations held out",
        "limits": "stars in the unit of these maps; stars of another suite are other stars",
        "command": f"python -m models train dark_matter --maps FOLDER --suite {suite}",
    }
    model = make_prior(
        denoiser,
        scales,
        schedule,
        title=f"Dark matter given stars, slabs of 25 x 25 x 5 (Mpc/h)^3 on {SIZE} x {SIZE} pixels, at z = 0",
        unit="(log10 of the surface density in (Msun/h) / (Mpc/h)^2 - mean) / sd, the numbers of log10_surface_density",
        **(own if suite == SUITE else other),
        training=settings_card(settings),
    )
    density, stars, _ = held_out.first_of_each()
    fields, maps = scales.density.field(density)[:, None], scales.stars.maps(stars)
    model.save(path, quality=reconstruction_errors(model, jnp.asarray(fields), jnp.asarray(maps)))
    return load_model(path)
