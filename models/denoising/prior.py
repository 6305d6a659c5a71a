"""Training recipe of the unconditional priors of dust and matter, diffusions in white noise.

The recipe is that of :mod:`models.dust_cmb.prior` with white noise: a filter of spectra that vary about the mean and
power of the training windows, which are not periodic, and a network for what is beyond it. The prior of dust is then
trained further on windows and on draws of its own, by the reverse process that fields are drawn by from a posterior:
an observation of such a draw is what its denoiser has to know.

There are two priors of dust. ``dust-64`` is of windows as they are, whose amplitude it has to know. ``dust-shapes-64``
is of windows brought to mean 0 and standard deviation 1 one by one; what they were is left to ordinary parameters,
whose distribution stands in its card (:mod:`models.denoising.scale`). That is the one for models in which the field is
multiplied by something unknown, by Gibbs. It is trained further twice from the same start, the second time on windows
with spots (:mod:`bayesdiff.spots`), and has the mean of the two networks' parameters (Wortsman et al. 2022,
arXiv:2203.05482): where nothing is observed each of the two has fields that no dust is like and that a chain does not
leave, spots of the one and filaments of the other, and the mean has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.model import Card, DiffusionModel, load_model
from bayesdiff.diffusion.noise import WhiteNoise
from bayesdiff.diffusion.samplers import ancestral_draw, draw_prior
from bayesdiff.diffusion.schedules import Cosine
from bayesdiff.networks.spectral_mixture import fit_spectral_mixture
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.varying_spectrum import fit_varying_spectrum
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from bayesdiff.recalibration import recalibrate, with_contrast
from bayesdiff.training import TrainingSettings, settings_card, train
from bayesdiff.windows import MapWindows, WithDraws
from models.denoising.data import SIZE, Maps, load_dust, load_matter
from models.denoising.quality import denoising_errors
from models.denoising.scale import fit_window_scale, standardised
from models.draws import compare_draws, draw_fields
from models.linear_gaussian import PIXEL_ARCMIN

SCHEDULE = Cosine(log_snr_max=10.0)
ARCHITECTURE = UNetConfig(
    in_channels=3, out_channels=1, channels=(32, 64, 96), blocks=(1, 2, 2), embedding=96, patch=2, seam=True
)
SETTINGS = TrainingSettings(steps=2500, pool_size=128, ema_decay=0.998)
NUM_DRAWS, NUM_STEPS, CHUNK, KEY = 1024, 60, 8, 77
LEAST_POWER = 1e-6
"""Of the mean of standardised windows, over that of all modes."""


class Refinement(NamedTuple):
    """How a prior is trained further on windows and draws of its own.

    Attributes:
        length: of this training, over that of the first.
        share: of the draws among the windows.
        ancestral: whether the draws are by the reverse process and brought to the mean and power of the windows, or by
            the flow, as they come.
        spots: share of the fields with spots as it is trained further once more, from the same start; 0 for once only.
    """

    length: float = 1.2
    share: float = 0.25
    ancestral: bool = False
    spots: float = 0.0


class Kind(NamedTuple):
    """A prior of this recipe.

    Attributes:
        name: of the model that ships.
        load: its maps.
        card: what its card says of them.
        refined: how it is trained further, if it is.
        standardised: whether it is of windows that are standardised one by one.
        varying: whether the spectra of its windows are a Gaussian vector of log amplitudes or a mixture.
        contrast: factor on the network, at all noise levels, where fields are drawn.
    """

    name: str
    load: Callable[[], Maps]
    card: dict[str, Any]
    refined: Refinement | None = None
    standardised: bool = False
    varying: bool = False
    contrast: float = 1.0

    def windows(self, maps: Maps | None = None) -> MapWindows:
        """Random windows of the training maps, as the prior has them."""
        return (maps or self.load()).windows()._replace(standardised=self.standardised)


MATTER = Kind(
    "matter-64",
    load_matter,
    {
        "title": "Projected dark matter at z = 0, windows of 64 x 64 of the 256 x 256 pixels of a Quijote box",
        "unit": "(ln(1 + delta) - mean) / sd, the numbers of standardisation",
        "provenance": "24 Quijote boxes of the fiducial cosmology (wph_quijote, BSD-3-Clause), the last 5 held out",
        "command": "python -m models train matter",
    },
)
DUST = Kind(
    "dust-64",
    load_dust,
    {
        "title": "Thermal dust intensity, windows of 64 x 64 pixels, in white noise",
        "pixel_arcmin": PIXEL_ARCMIN,
        "unit": "standard deviation of a map (its training rows), mean subtracted",
        "provenance": "MHD simulation maps I_1 and I_2 of pywph (BSD-3-Clause), rows 256 to 383 held out",
        "command": "python -m models train dust",
    },
    refined=Refinement(length=2.8, share=0.5, ancestral=True),
    varying=True,
    contrast=1.05,
)
DUST_SHAPES = DUST._replace(
    name="dust-shapes-64",
    card={
        **DUST.card,
        "title": "Shapes of thermal dust intensity: windows of 64 x 64 pixels of mean 0 and standard deviation 1 each",
        "unit": "standard deviation of the window, its mean subtracted; window_scale has the distribution of both",
        "command": "python -m models train dust_shapes",
    },
    refined=Refinement(spots=0.3),
    standardised=True,
    varying=False,
    contrast=1.0,
)


def untrained_denoiser(windows: MapWindows, seed: int = 0, varying: bool = False) -> WienerDenoiser:
    """The Wiener filter of the training windows, with a network that gives zero."""
    mean, power = windows.statistics()
    if windows.standardised:
        # They have no power at k = 0, where the flow divides by it.
        power = power.at[..., 0, 0].max(LEAST_POWER * jnp.mean(power))
    reference = GaussianDenoiser(power, mean)
    fields = jax.vmap(windows.draw)(jax.random.split(jax.random.key(seed), 4096))
    spectra = fit_varying_spectrum(fields, reference) if varying else fit_spectral_mixture(fields, reference)
    denoiser = initialise(seed, reference, ARCHITECTURE, spectra=spectra)
    return replace(denoiser, standardised=windows.standardised)


def make_prior(denoiser: WienerDenoiser | GaussianDenoiser, **card: Any) -> DiffusionModel:
    """The diffusion model around a denoiser; ``card`` is what its card says of it."""
    return DiffusionModel(
        denoiser=denoiser, schedule=SCHEDULE, noise=WhiteNoise(), event_shape=(1, SIZE, SIZE), card=Card(card)
    )


def train_denoiser(kind: Kind, settings: TrainingSettings, folder: Path) -> WienerDenoiser:
    """Run the recipe, continuing from the checkpoint in ``folder``."""
    windows = kind.windows()
    untrained = untrained_denoiser(windows, varying=kind.varying)
    denoiser = train(windows, untrained, SCHEDULE, WhiteNoise(), settings, folder)
    if kind.refined is None:
        return denoiser
    length, share, ancestral, spots = kind.refined
    draws = draw_windows(denoiser, ancestral)
    mixed = WithDraws(windows, matched(draws, windows) if ancestral else draws, share)
    settings = settings.refinement(length)
    refined = [refine(denoiser, mixed, settings, folder / "refined")]
    if spots:
        refined.append(refine(denoiser, mixed, replace(settings, spots=spots), folder / "refined_spots"))
    return average(refined, windows)


def draw_windows(denoiser: WienerDenoiser, ancestral: bool) -> MapWindows:
    """Draws of the prior as it is, as training maps."""
    model = make_prior(denoiser)
    context = model.context_array(None)
    draw_one = partial(ancestral_draw, num_steps=NUM_STEPS) if ancestral else draw_prior
    draw = jax.jit(jax.vmap(lambda key: draw_one(key, model, context)))
    keys = [jax.random.split(jax.random.fold_in(jax.random.key(KEY), i), CHUNK) for i in range(NUM_DRAWS // CHUNK)]
    return MapWindows(jnp.concatenate([draw(some) for some in keys]), SIZE, (False, False))


def matched(draws: MapWindows, windows: MapWindows) -> MapWindows:
    """Draws with the mean and the power per mode of windows.

    Draws that lack power at small scales would teach their denoiser to leave out more of it.
    """
    (mean, power), (wanted_mean, wanted_power) = draws.statistics(), windows.statistics()
    maps = wanted_mean + filter_field(draws.maps - mean, jnp.sqrt(wanted_power / power))
    return draws._replace(maps=maps)


def refine(denoiser: WienerDenoiser, mixed: WithDraws, settings: TrainingSettings, folder: Path) -> WienerDenoiser:
    """Train further on windows and on draws of the prior, continuing from the checkpoint in ``folder``."""
    return train(mixed, denoiser, SCHEDULE, WhiteNoise(), settings, folder)


def average(denoisers: Sequence[WienerDenoiser], windows: MapWindows) -> WienerDenoiser:
    """The mean of the networks' parameters, its gain measured; a single one as it is."""
    first, *others = denoisers
    if not others:
        return first
    params = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *(x.params for x in denoisers))
    return recalibrate(first.with_params(params), windows, SCHEDULE, WhiteNoise())


def publish(kind: Kind, denoiser: WienerDenoiser, settings: TrainingSettings, path: Path) -> DiffusionModel:
    """Measure a trained prior and write it with its card."""
    maps = kind.load()
    card = {**kind.card, "standardisation": {"mean": maps.mean, "sd": maps.sd}, "training": settings_card(settings)}
    if kind.refined is not None:
        length, share, ancestral, spots = kind.refined
        card["refinement"] = settings_card(settings.refinement(length))
        card["refinement"] |= {"share_of_own_draws": share, "draws": "ancestral" if ancestral else "flow"}
        if spots:
            card["refinement"]["averaged_with_spots"] = spots
    references, held_out = maps.patches(held_out=False), maps.patches()
    if kind.standardised:
        card["window_scale"] = fit_window_scale(maps)._asdict()
        references, held_out = standardised(references), standardised(held_out)
    if kind.contrast != 1.0:
        denoiser = with_contrast(denoiser, kind.contrast, onset=None)
        card["contrast"] = f"in draws, the network raised by {kind.contrast:g}, chosen by the power of 128 draws"
    model = make_prior(denoiser, **card)
    training = np.asarray(jax.vmap(kind.windows(maps).draw)(jax.random.split(jax.random.key(7), 4096)))
    quality = {
        "draws": compare_draws(draw_fields(model), training, references, held_out),
        "denoising": denoising_errors(model, held_out),
    }
    model.save(path, quality=quality)
    return load_model(path)
