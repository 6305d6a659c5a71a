"""Training recipe of the priors of CIB and tSZ, and of the CIB at three frequencies.

The published model (Prabhu et al. 2025, arXiv:2506.09036) is a U-Net of four levels, linear attention at high and full
attention at the lowest resolution, trained to predict v = alpha n - sigma x under a sigmoid schedule. This one has the
same levels, attention and schedule. Its network predicts the Wiener-preconditioned residual instead
(:mod:`bayesdiff.networks.wiener`): with white noise and, if the fields were white too, P = 1, the Wiener filter of y is
y / (1 + s^2) = alpha z, its posterior standard deviation s / sqrt(1 + s^2) = sigma, so that

    D = alpha z + sigma N    beside    D = alpha z - sigma v:

N is minus v. For fields with a spectrum N is v mode by mode, each mode at its own signal-to-noise: a network that
predicts v must itself find the filter that is here in closed form. The plain form is there as
``ParametrisedDenoiser(network, denoised_from_v)``.

Fields are patches of 64 x 64 pixels of 2 arcmin on the scale of :mod:`models.cib_tsz.scale`. The network sees two by
two pixels as one, so that its four levels are 32, 16, 8 and 4 on a side.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import GaussianDenoiser, twin
from bayesdiff.diffusion.model import Card, DiffusionModel, load_model
from bayesdiff.diffusion.noise import WhiteNoise
from bayesdiff.diffusion.schedules import Sigmoid
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from bayesdiff.recalibration import with_contrast
from bayesdiff.training import TrainingSettings, settings_card, train
from bayesdiff.windows import MapWindows
from models.cib_tsz.data import FOLDER, PATCH_SIZE, Foregrounds, load
from models.cib_tsz.mock import PIXEL_ARCMIN
from models.cib_tsz.scale import ENTRY, Scale, fit_scale, mean_spectra, scale_of

SCHEDULE = Sigmoid(clip=4.5e-5)
"""That of the paper (Jabri et al. 2022, start -3, end 3, tau 1), cut at a log-SNR of 10 to either side."""
SETTINGS = TrainingSettings(steps=2000, pool_size=128, ema_decay=0.998)
PATCHES_PER_MOCK = 16


class Kind(NamedTuple):
    """A prior of this recipe.

    Attributes:
        name: of the model that ships.
        channels: of the mocks, in order.
        title: of its card.
        command: that trains it.
        contrast: factor on the network, above s = 1, where fields are drawn.
    """

    name: str
    channels: tuple[str, ...]
    title: str
    command: str
    contrast: float = 1.0


CIB_TSZ = Kind(
    "cib-tsz-64",
    ("cib_150", "tsz_150"),
    "CIB and tSZ at 150 GHz, 64 x 64 pixels of 2 arcmin, clusters and sources masked",
    "python -m models train cib_tsz",
    contrast=0.93,
)
CIB = Kind(
    "cib-64",
    ("cib_95", "cib_150", "cib_857"),
    "CIB at 95, 150 and 857 GHz, 64 x 64 pixels of 2 arcmin, clusters and sources masked",
    "python -m models train cib --steps 1400",
)


def architecture(num_channels: int) -> UNetConfig:
    """The U-Net of a prior of so many channels."""
    return UNetConfig(
        in_channels=3 * num_channels,
        out_channels=num_channels,
        channels=(32, 64, 96, 128),
        blocks=(1, 1, 2, 1),
        embedding=96,
        linear_attention=(0, 1, 2),
        seam=True,
        patch=2,
    )


def training_patches(maps: Foregrounds, seed: int = 0) -> np.ndarray:
    """Patches (num, C, 64, 64) [micro-K]: 16 at random places of each training map, or the maps if they are patches."""
    if maps.training.shape[-1] == PATCH_SIZE:
        return maps.training
    rng = np.random.default_rng(seed)
    size = maps.training.shape[-1]
    corners = rng.integers(0, size, (len(maps.training), PATCHES_PER_MOCK, 2))
    inside = np.arange(PATCH_SIZE)
    patches = [
        field[:, (row + inside)[:, None] % size, (column + inside)[None, :] % size]
        for field, places in zip(maps.training, corners, strict=True)
        for row, column in places
    ]
    return np.stack(patches)


def training_set(kind: Kind, folder: Path = FOLDER) -> tuple[MapWindows, Scale]:
    """Training patches as standardised fields, and their scale."""
    patches = training_patches(load(kind.channels, folder))
    scale = fit_scale(patches, kind.channels)
    fields = jax.jit(scale.field)
    chunks = [np.asarray(fields(jnp.asarray(part))) for part in np.array_split(patches, max(1, len(patches) // 256))]
    return MapWindows(jnp.asarray(np.concatenate(chunks)), PATCH_SIZE, periodic=(False, False)), scale


def gaussian_field(windows: MapWindows) -> GaussianDenoiser:
    """The Gaussian field with the mean and power of the training fields."""
    mean, power = windows.statistics()
    return GaussianDenoiser(power, mean)


def untrained_denoiser(windows: MapWindows, seed: int = 0) -> WienerDenoiser:
    """The Wiener filter of the training fields, with a network that gives zero."""
    reference = gaussian_field(windows)
    return initialise(seed, reference, architecture(windows.maps.shape[1]))


def make_prior(denoiser: WienerDenoiser | GaussianDenoiser, scale: Scale, **card: Any) -> DiffusionModel:
    """The diffusion model around a denoiser; its card says how fields become maps, and holds ``card``."""
    reference = twin(denoiser)
    assert isinstance(reference, GaussianDenoiser)
    height, width = reference.power.shape[-2:]
    entries = {ENTRY: scale.to_card(PIXEL_ARCMIN), **card}
    return DiffusionModel(
        denoiser=denoiser,
        schedule=SCHEDULE,
        noise=WhiteNoise(),
        event_shape=(len(scale.channels), int(height), int(width)),
        name="x",
        card=Card(entries),
    )


def twin_of(prior: DiffusionModel) -> DiffusionModel:
    """The Gaussian twin of a trained prior, on its scale; no network."""
    reference = prior.twin_at(prior.context_array(None))
    assert reference is not None
    return DiffusionModel(
        denoiser=reference,
        schedule=prior.schedule,
        noise=prior.noise,
        event_shape=prior.event_shape,
        name=prior.name,
        card=Card({name: prior.card.entries[name] for name in (ENTRY, "spectra") if name in prior.card.entries}),
    )


def train_denoiser(kind: Kind, settings: TrainingSettings, checkpoints: Path, folder: Path = FOLDER) -> WienerDenoiser:
    """Run the recipe on the mocks of ``folder``, or a file of patches, continuing from what ``checkpoints`` holds."""
    windows, _ = training_set(kind, folder)
    return train(windows, untrained_denoiser(windows), SCHEDULE, WhiteNoise(), settings, checkpoints)


def provenance(maps: Path, num: int) -> dict[str, str]:
    """What a card says of ``num`` training maps."""
    if maps.is_file():
        return {"provenance": f"{num} patches of {maps.name}, a fifth as many held out"}
    return {
        "provenance": f"{num} mocks of 4.3 degrees (python -m models mock), a fifth as many held out",
        "limits": "halo model on independent lognormal slices, one cosmology, no radio sources; not the Agora maps",
    }


def publish(
    kind: Kind, denoiser: WienerDenoiser, settings: TrainingSettings, path: Path, folder: Path = FOLDER
) -> DiffusionModel:
    """Measure a trained prior and write it with its card."""
    windows, scale = training_set(kind, folder)
    maps = load(kind.channels, folder)
    told = f"in draws, the network at {kind.contrast:g} above s = 1, chosen by spectra and fourth moments of 256 draws"
    model = make_prior(
        with_contrast(denoiser, kind.contrast),
        scale,
        title=kind.title,
        spectra=np.round(mean_spectra(training_patches(maps)), 6).tolist(),
        unit="x is standardised and decorrelated; maps in micro-K of CMB temperature by the numbers of foregrounds",
        **provenance(folder, len(maps.training)),
        command=kind.command,
        training=settings_card(settings),
        **({} if kind.contrast == 1.0 else {"contrast": told}),
    )
    return write_measured(model, maps, windows, path)


def measure(path: Path, folder: Path = FOLDER) -> DiffusionModel:
    """Measure the prior of a folder anew on the maps that it was trained on, and write that into its card.

    Raises:
        ValueError: it is not a prior of foregrounds.
    """
    model = load_model(path)
    entry = model.card.entries.get(ENTRY)
    if not isinstance(entry, dict):
        raise ValueError(f"a prior of foregrounds is expected, with {ENTRY} in its card, got {path}")
    maps = load(tuple(entry["channels"]), folder)
    fields = np.asarray(scale_of(model, entry["channels"]).field(jnp.asarray(training_patches(maps))))
    return write_measured(model, maps, MapWindows(jnp.asarray(fields), PATCH_SIZE, (False, False)), path)


def write_measured(model: DiffusionModel, maps: Foregrounds, windows: MapWindows, path: Path) -> DiffusionModel:
    """The prior on disk, with its rescaling and its quality in the card."""
    from models.cib_tsz.quality import fit_rescaling, measured_quality

    rescaling = fit_rescaling(model, training_patches(maps))
    model = replace(model, card=Card({**model.card.entries, "rescaling": rescaling}))
    model.save(path, quality=measured_quality(model, maps, windows))
    return load_model(path)
