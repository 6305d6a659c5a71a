"""Training recipe of the conditional prior of dark-matter fields: an emulator whose bound is a likelihood.

The denoiser is Wiener-preconditioned about the Gaussian field whose mean and power spectrum depend on (Omega_m,
sigma_8), fitted to the training maps: the twin, the reference of the bound, and all that a power spectrum can tell. The
power of a slab also varies from one to the next at the same cosmology, with its mean density and the structures in it,
in all small scales together: the filter is that of a spectrum that varies about the twin's
(:mod:`bayesdiff.networks.varying_spectrum`). The network learns what is beyond both.

A prior of finer pixels starts from the weights of a coarser one (``start``): the network is convolutional, and what it
is shown is white at every resolution. A likelihood asks how the denoiser changes with the parameters, which is a small
part of what it is trained for and learned last: the training is followed by another at half the rate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import Denoiser
from bayesdiff.diffusion.gaussian_family import fit_gaussian_family
from bayesdiff.diffusion.model import Card, DiffusionModel, load_model
from bayesdiff.diffusion.noise import WhiteNoise
from bayesdiff.diffusion.schedules import Cosine
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.varying_spectrum import fit_varying_spectrum
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from bayesdiff.training import TrainingSettings, settings_card, train
from bayesdiff.windows import LabelledFields
from models.density_fields.data import PARAMETER_BOUNDS, PIXEL, SIZE, Standardisation, load_maps, split
from models.density_fields.likelihood import NUM_FIELDS, measure_exponent, measure_importance
from models.density_fields.power_spectrum import fit_power_spectrum, posterior_moments
from models.density_fields.quality import denoising_table

NAME = "density-fields-64"
SIMULATIONS = Path("build/density_fields")
SCHEDULE = Cosine(log_snr_max=12.0)
ARCHITECTURE = UNetConfig(in_channels=3, out_channels=1, channels=(32, 64, 96), blocks=(1, 2, 2), embedding=96, patch=2)
SETTINGS = TrainingSettings(steps=8000)
REFINEMENT = 0.75
"""Length of the training of the trained network, over the first."""


class Fields(NamedTuple):
    """Standardised maps with the parameters of each.

    Attributes:
        training: fields (N, 1, H, W) and parameters (N, 2).
        held_out: of simulations kept out of training.
        scale: standardisation of the training maps.
    """

    training: LabelledFields
    held_out: LabelledFields
    scale: Standardisation


def load_fields(folder: Path = SIMULATIONS, size: int = SIZE) -> Fields:
    """Read, split by simulation and standardise the maps of the hypercube in ``folder``.

    Raises:
        FileNotFoundError: there are no maps; ``python -m models simulate`` makes them.
    """
    training, held_out = split(load_maps(folder, "LH", size))
    scale = Standardisation.of(training.surface_density)

    def labelled(maps) -> LabelledFields:
        fields = scale.field(maps.surface_density)[:, None]
        return LabelledFields(jnp.asarray(fields), jnp.asarray(maps.map_parameters, dtype=jnp.float32))

    return Fields(labelled(training), labelled(held_out), scale)


def untrained_denoiser(fields: LabelledFields, start: WienerDenoiser | None = None) -> WienerDenoiser:
    """The Wiener filter of the training fields, with a network that gives zero, or the one of ``start``.

    Raises:
        ValueError: ``start`` has another architecture, or no network.
    """
    low, high = zip(*PARAMETER_BOUNDS.values(), strict=True)
    family = fit_gaussian_family(np.asarray(fields.fields), np.asarray(fields.contexts, np.float64), low, high)
    every = max(1, len(fields.fields) // 4096)
    spectra = fit_varying_spectrum(fields.fields[::every], family, fields.contexts[::every])
    denoiser = initialise(0, family, ARCHITECTURE, low, high, spectra)
    if start is None:
        return denoiser
    found = start.config if isinstance(start, WienerDenoiser) else type(start).__name__
    if found != denoiser.config:
        raise ValueError(f"the network to start from must be {denoiser.config}, got {found}")
    return denoiser.with_params(start.params)


def make_prior(denoiser: Denoiser, scale: Standardisation, size: int = SIZE, **card: Any) -> DiffusionModel:
    """The diffusion model around a denoiser; its card holds the standardisation and ``card``."""
    return DiffusionModel(
        denoiser=denoiser,
        schedule=SCHEDULE,
        noise=WhiteNoise(),
        event_shape=(1, size, size),
        context_names=tuple(PARAMETER_BOUNDS),
        context_bounds=tuple(PARAMETER_BOUNDS.values()),
        card=Card({"log10_surface_density": scale._asdict(), "pixel_mpc_h": PIXEL * SIZE / size, **card}),
    )


def scale_of(prior: DiffusionModel) -> Standardisation:
    """How fields of a prior of this recipe become surface density, from its card.

    Raises:
        ValueError: the card does not say.
    """
    entries = prior.card.entries
    if "log10_surface_density" not in entries:
        raise ValueError(
            "the prior must be one of dark-matter fields, with log10_surface_density in its card; its card has "
            f"{', '.join(entries) or 'nothing'}"
        )
    return Standardisation(**entries["log10_surface_density"])


def publish(
    denoiser: WienerDenoiser, settings: TrainingSettings, path: Path, folder: Path = SIMULATIONS, size: int = SIZE
) -> DiffusionModel:
    """Measure a trained prior and write it with its card."""
    fields = load_fields(folder, size)
    model = make_prior(
        denoiser,
        fields.scale,
        size,
        title=f"Dark matter of N-body simulations, slabs of 25 x 25 x 5 (Mpc/h)^3 on {size} x {size} pixels, at z = 0",
        unit="(log10 of the surface density in (Msun/h) / (Mpc/h)^2 - mean) / sd, the numbers of log10_surface_density",
        provenance=f"{_origin(folder)}: a Latin hypercube in Omega_m and sigma_8, its last 150 simulations held out",
        limits="a particle mesh of 64^3 smooths below about 1 Mpc/h; other parameters at the fiducial of CAMELS",
        command="python -m models train density_fields",
        training=settings_card(settings),
        refinement=settings_card(settings.refinement(REFINEMENT)),
    )
    model.save(path)
    return measure(path, folder)


def _origin(folder: Path) -> str:
    """What made the maps, by their names."""
    return "python -m models simulate" if any(folder.glob("*_JaxPM_LH_*")) else "maps in the layout of CAMELS"


def measure(path: Path, folder: Path = SIMULATIONS) -> DiffusionModel:
    """Measure a trained prior and write what is found into its card.

    That is its denoiser's error (``quality``), where its bound varies (``bound_importance``) and how sure the bound has
    a right to be (``bound_exponent``). It takes about ten minutes on two cores.

    Args:
        path: folder of the model.
        folder: of the maps that it was trained on.

    Raises:
        FileNotFoundError: model or maps are not there.
        ValueError: the maps are standardised by other numbers than the prior's.
    """
    model = load_model(path)
    fields = load_fields(folder, model.event_shape[-1])
    if not np.allclose(scale_of(model), fields.scale, rtol=1e-5):
        raise ValueError(
            f"the prior in {path} has the scale {scale_of(model)}, the training maps {fields.scale}; measure it on its "
            "own training maps"
        )
    parts = {"training": fields.training, "held_out": fields.held_out}
    quality = {name: denoising_table(model, part) for name, part in parts.items()}
    importance = measure_importance(model, fields.training)
    model.save(path, quality={"denoiser_error_over_wiener": quality}, bound_importance=importance)
    model, training = load_model(path), fields.training
    spectrum = fit_power_spectrum(np.asarray(training.fields), np.asarray(training.contexts, np.float64))
    some = np.linspace(0, len(training.fields) - 1, NUM_FIELDS).astype(int)
    moments = posterior_moments(spectrum, np.asarray(training.fields)[some])
    exponent = measure_exponent(model, training, moments.mean, moments.sd, some)
    # Few fields, or a network that has learnt nothing, can ask for more than one: no surer than the bound itself.
    model.save(path, bound_exponent=min(exponent.value, 1.0), bound_exponent_interval=[exponent.low, exponent.high])
    return load_model(path)


def train_denoiser(
    settings: TrainingSettings,
    checkpoints: Path,
    start: WienerDenoiser | None = None,
    folder: Path = SIMULATIONS,
    size: int = SIZE,
) -> WienerDenoiser:
    """Run the recipe, continuing from the checkpoint in ``checkpoints``.

    Args:
        settings: how to train.
        checkpoints: folder.
        start: whose network the training starts from, of a prior of any size.
        folder: of the maps.
        size: pixels per side; finer maps are averaged.
    """
    fields = load_fields(folder, size).training
    trained = train(fields, untrained_denoiser(fields, start), SCHEDULE, WhiteNoise(), settings, checkpoints)
    refined = settings.refinement(REFINEMENT)
    return train(fields, trained, SCHEDULE, WhiteNoise(), refined, checkpoints / "refined")
