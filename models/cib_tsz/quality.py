"""How draws of a prior of foregrounds compare with maps that it has not seen, and the rescaling of draws.

All statistics are of patches (num, C, 64, 64) in micro-K. Spectra are in bands of |k| to 0.8 of the Nyquist wavenumber,
third and fourth moments in octaves below it. A difference of means is given over the standard deviation of a single
patch, the scatter from patch to patch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
import models.denoising.quality
from bayesdiff.windows import MapWindows
from models.cib_tsz.data import Foregrounds
from models.cib_tsz.scale import ENTRY, scale_of
from models.draws import BAND_EDGES, draw_fields, nearest_patches

OCTAVES = (1.5, 3.0, 6.0, 12.0, 24.0)
PEAK_RANGES = ((3.0, 5.0), (5.0, np.inf))
NUM_MEASURED, NUM_NEAREST, NUM_RESCALING = 128, 32, 256
NUM_EVALUATIONS = 24
"""Of the network, for a draw."""


class Difference(NamedTuple):
    """Means over two ensembles of patches.

    Attributes:
        drawn: mean over draws, (..., bands).
        held_out: mean over held-out patches.
        sd: of a single held-out patch.
        error: of the difference of the means.
    """

    drawn: np.ndarray
    held_out: np.ndarray
    sd: np.ndarray
    error: np.ndarray

    @property
    def scatters(self) -> np.ndarray:
        """|Difference| over the standard deviation of a single patch."""
        return np.abs(self.drawn - self.held_out) / self.sd

    @property
    def errors(self) -> np.ndarray:
        """|Difference| over its own error."""
        return np.abs(self.drawn - self.held_out) / self.error


def difference(drawn: np.ndarray, held_out: np.ndarray) -> Difference:
    """Of statistics (num, ..., bands) of patches, draws and held-out ones."""
    sd = held_out.std(axis=0, ddof=1)
    error = np.sqrt(drawn.var(axis=0, ddof=1) / len(drawn) + sd**2 / len(held_out))
    return Difference(drawn.mean(axis=0), held_out.mean(axis=0), sd, error)


def draw_maps(model: bd.DiffusionModel, num: int = NUM_MEASURED, seed: int = 0, rescale: bool = True) -> np.ndarray:
    """Draws of a prior of foregrounds, (num, C, H, W) [micro-K].

    Args:
        model: the prior.
        num: of draws.
        seed: of their noise.
        rescale: whether their variance is corrected by the factors in the model's card, see :func:`rescaled`.

    Raises:
        ValueError: the card is not that of foregrounds, or holds no factors.
    """
    return to_maps(draw_fields(model, num, seed, num_evaluations=NUM_EVALUATIONS), model, rescale)


def to_maps(fields: np.ndarray, model: bd.DiffusionModel, rescale: bool = True) -> np.ndarray:
    """Maps (num, C, H, W) [micro-K] of standardised draws; arguments and errors as in :func:`draw_maps`."""
    scale = scale_of(model, model.card.entries.get(ENTRY, {}).get("channels", ()))
    maps = np.asarray(scale.maps(jnp.asarray(fields)))
    return rescaled(maps, model) if rescale else maps


def rescaled(maps: np.ndarray, model: bd.DiffusionModel) -> np.ndarray:
    """Drawn maps (num, C, H, W) [micro-K] whose deviations from the mean are multiplied by the card's factors.

    One factor per channel, as published: there 1.03 for the CIB and 1.14 for the tSZ effect (Prabhu et al. 2025,
    section 3.2). Pixels beyond the extremes of the training maps are brought to these: clusters and sources that stand
    out further are masked in maps, so no map has them, and the asinh scale makes a small error of a drawn field there a
    large one. Both are for draws alone: a likelihood goes by the model as it is.

    Raises:
        ValueError: the card has no factors, or no extremes.
    """
    entry = model.card.entries.get("rescaling")
    if entry is None or "lowest" not in entry:
        raise ValueError(
            "rescale must be asked of a model whose card holds the factors of rescaling and the extremes of maps, got "
            "one without; python -m models measure writes them"
        )
    mean, factor = (np.array(entry[name], dtype=maps.dtype)[:, None, None] for name in ("means", "factors"))
    lowest, highest = (np.array(entry[name], dtype=maps.dtype)[:, None, None] for name in ("lowest", "highest"))
    return np.clip(mean + factor * (maps - mean), lowest, highest)


def fit_rescaling(
    model: bd.DiffusionModel, training: np.ndarray, num: int = NUM_RESCALING, seed: int = 100
) -> dict[str, Any]:
    """What :func:`rescaled` needs: standard deviation of training maps over that of draws, and extremes of the maps.

    Args:
        model: the prior.
        training: maps that it learned from, (num, C, H, W) [micro-K].
        num: of draws.
        seed: of the draws, other than those that are judged.
    """
    drawn = draw_maps(model, num, seed, rescale=False)
    ours, theirs = (x.std(axis=(0, 2, 3), dtype=np.float64) for x in (drawn, training))
    factors, means = theirs / ours, training.mean(axis=(0, 2, 3), dtype=np.float64)
    extremes = {"lowest": training.min(axis=(0, 2, 3)).tolist(), "highest": training.max(axis=(0, 2, 3)).tolist()}
    return {"factors": factors.tolist(), "means": means.tolist(), **extremes, "num_draws": num, "seed": seed}


def spectra(patches: np.ndarray) -> np.ndarray:
    """Auto- and cross-spectra per patch and band, (num, C, C, bands)."""
    return np.asarray(bd.fields.spectral_matrix(patches, edges=BAND_EDGES).power)


def correlations(spectra: np.ndarray) -> np.ndarray:
    """Correlation coefficients of mean spectra (C, C, bands), of the same shape."""
    auto = np.sqrt(np.einsum("iik->ik", spectra))
    return spectra / auto[:, None] / auto[None, :]


def bispectra(patches: np.ndarray, channels: tuple[int, int, int]) -> np.ndarray:
    """Collapsed bispectrum of three channels per patch and octave, (num, bands)."""
    a, b, c = (patches[:, [i]] for i in channels)
    return np.asarray(bd.fields.collapsed_bispectrum(a, b, c, edges=OCTAVES).cumulant)[:, 0]


def trispectra(patches: np.ndarray, channels: tuple[int, int, int, int]) -> np.ndarray:
    """Connected collapsed trispectrum of four channels per patch and octave, (num, bands)."""
    a, b, c, d = (patches[:, [i]] for i in channels)
    return np.asarray(bd.fields.collapsed_trispectrum(a, b, c, d, edges=OCTAVES).cumulant)[:, 0]


def stacked_profiles(patches: np.ndarray, channel: int, sign: float, noise: float) -> bd.fields.PeakProfiles:
    """Profiles of all channels about the peaks of one, stacked over patches, (C, ranges, radii).

    Args:
        patches: (num, C, H, W), each channel less its mean over the patch.
        channel: whose peaks are found.
        sign: -1 where they are decrements.
        noise: standard deviation that a peak is measured by [micro-K].
    """
    centred = patches - patches.mean(axis=(-2, -1), keepdims=True)
    found = bd.fields.peak_profiles(
        sign * centred[:, [channel]],
        centred,
        ranges=PEAK_RANGES,
        noise=noise,
        radial_edges=(0, 0.5, 1.5, 2.5, 3.5, 4.5),
    )
    return bd.fields.pool_peak_profiles(found)


def measured_quality(model: bd.DiffusionModel, maps: Foregrounds, windows: MapWindows) -> dict[str, Any]:
    """What a card says of draws: spectra and correlations against held-out maps, rescaled and not, and memorisation."""
    held_out = maps.patches()
    theirs = spectra(held_out)
    quality: dict[str, Any] = {"band_edges": list(BAND_EDGES), "num_draws": NUM_MEASURED}
    fields = draw_fields(model, NUM_MEASURED, num_evaluations=NUM_EVALUATIONS)
    for name, rescale in (("draws", False), ("rescaled_draws", True)):
        found = difference(spectra(to_maps(fields, model, rescale)), theirs)
        change = np.abs(correlations(found.drawn) - correlations(found.held_out))
        quality[name] = {
            "power_ratio": np.einsum("iik->ik", found.drawn / found.held_out).tolist(),
            "largest_difference_of_spectra_in_sd": float(found.scatters.max()),
            "largest_difference_of_correlations": float(change.max()),
        }
    some = held_out[:: max(1, len(held_out) // NUM_NEAREST)][:NUM_NEAREST]
    unseen = np.asarray(scale_of(model, maps.channels).field(jnp.asarray(some)))
    references = np.asarray(windows.maps[:: max(1, len(windows.maps) // 1024)])
    quality["memorisation"] = nearest_patches(fields[:NUM_NEAREST], references, unseen)
    return quality | {"denoising": denoising_errors(model, held_out)}


def denoising_errors(model: bd.DiffusionModel, patches: np.ndarray, seed: int = 3) -> dict[str, Any]:
    """Mean square error of the denoiser over that of its twin, the Wiener filter, by noise level, on held-out maps.

    Args:
        model: the prior.
        patches: (num, C, H, W) [micro-K].
        seed: of the noise.
    """
    scale = scale_of(model, model.card.entries[ENTRY]["channels"])
    return models.denoising.quality.denoising_errors(model, np.asarray(scale.field(jnp.asarray(patches))), seed)
