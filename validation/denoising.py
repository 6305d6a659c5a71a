"""The unconditional priors of matter and dust: what they draw, how few steps that takes, and how well they denoise.

Everything is judged on maps that the priors have not seen. Posterior means at known noise level are beside those of the
Wiener filter of the same power; draws of the posterior must cover the true modes of every Fourier band as often as they
say; and an unknown noise level is inferred from one patch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.calibration import band_coverage
from models.denoising.data import Maps
from models.denoising.pictures import draw_generated
from models.denoising.prior import DUST, MATTER, Kind
from models.denoising.quality import NOISE_LEVELS, denoising_errors
from models.draws import BAND_EDGES, THRESHOLDS, compare_draws, draw_fields
from validation.figures import RESULTS, Figure, above, below
from validation.unknown_noise import as_it_is, cross_fitted

NUM_DRAWS, NUM_TRAINING = 256, 4096
FEW, MANY, NUM_COMPARED = 30, 1000, 48
NUM_PATCHES, NUM_POSTERIOR = 24, 39
LEVELS = (0.68, 0.95)
FOLDER = RESULTS / "denoising"
Unknown = Callable[[bd.DiffusionModel, Maps, Path], list[Figure]]


def matter() -> list[Figure]:
    """Figures of the prior of the large-scale structure."""
    return study(MATTER, as_it_is, power_bound=0.05)


def dust() -> list[Figure]:
    """Figures of the prior of dust."""
    return study(DUST, cross_fitted, power_bound=None)


def study(kind: Kind, unknown_noise: Unknown, power_bound: float | None, folder: Path = FOLDER) -> list[Figure]:
    """Generation, sampling in few steps, denoising at known and unknown noise level."""
    prior, maps = bd.load_pretrained(kind.name), kind.load()
    draws = draw_fields(prior, NUM_DRAWS)
    draw_generated(draws, maps.patches(), folder / f"{kind.name}.png", kind.card["title"])
    return [
        *generation(draws, maps, power_bound),
        *few_steps(prior),
        *known_noise(prior, maps),
        *unknown_noise(prior, maps, folder / kind.name),
    ]


def generation(draws: np.ndarray, maps: Maps, power_bound: float | None) -> list[Figure]:
    """Spectrum, one-point and Minkowski statistics of draws, and memorisation."""
    training = np.asarray(jax.vmap(maps.windows().draw)(jax.random.split(jax.random.key(7), NUM_TRAINING)))
    statistics = compare_draws(draws, training, maps.patches(held_out=False), maps.patches())
    ratio = np.array(statistics["power_ratio"])
    table = Table("|k| [fundamental]", "power, draws / training", "sampling error")
    for low, high, value, error in zip(
        BAND_EDGES, BAND_EDGES[1:], ratio, statistics["power_ratio_error"], strict=False
    ):
        table.add_row(f"{low:g} to {high:g}", f"{value:.3f}", f"{error:.3f}")
    Console(width=120).print(table)
    label = f"power of {len(draws)} draws: largest |ratio to training - 1|, to 0.8 Nyquist"
    worst = float(np.abs(ratio - 1).max())
    sampling = np.max(statistics["power_ratio_error"])
    figures = [
        Figure(label, worst) if power_bound is None else below(label, worst, power_bound),
        Figure("its sampling error in the band where that is largest", float(sampling), detail=True),
        Figure("one-point standard deviation, draws over training", statistics["sd_ratio"]),
        Figure("one-point skewness, draws", statistics["skewness"]),
        Figure("one-point skewness, training", statistics["skewness_training"]),
        above(
            "median distance to the nearest training patch, draws over held-out patches",
            statistics["nearest_patch_draws"] / statistics["nearest_patch_held_out"],
            0.95,
        ),
    ]
    return figures + morphology(draws, maps)


def morphology(draws: np.ndarray, maps: Maps) -> list[Figure]:
    """Minkowski functionals of draws against held-out maps, in units of the scatter between those maps."""
    per_map = [
        np.asarray(bd.fields.minkowski_functionals(Maps(*maps)._replace(held_out=one[None]).patches(), THRESHOLDS))
        for one in maps.held_out
    ]
    theirs = np.stack([x[:, :, 0].mean(axis=1) for x in per_map])
    ours = np.asarray(bd.fields.minkowski_functionals(draws, THRESHOLDS))[:, :, 0].mean(axis=1)
    scatter, figures = theirs.std(axis=0, ddof=1), []
    for i in range(3):
        difference = np.sqrt(np.mean((ours[i] - theirs.mean(axis=0)[i]) ** 2))
        typical = np.sqrt(np.mean(scatter[i] ** 2))
        name = f"Minkowski V{i}: rms difference from held-out maps over the scatter between them"
        figures.append(below(name, difference / typical, 1.0))
    return figures


def few_steps(prior: bd.DiffusionModel) -> list[Figure]:
    """Draws from the same noise by few evaluations and by many: spectra and functionals, in their standard errors."""
    fields = [draw_fields(prior, NUM_COMPARED, seed=5, num_evaluations=n) for n in (FEW, MANY)]
    power = [np.asarray(bd.fields.power_spectrum(x, edges=BAND_EDGES).power)[:, 0] for x in fields]
    shape = [np.asarray(bd.fields.minkowski_functionals(x, THRESHOLDS))[:, :, 0] for x in fields]
    figures = []
    for name, (few, many), axis in (("spectra", power, 0), ("Minkowski functionals", shape, 1)):
        error = many.std(axis=axis, ddof=1) / np.sqrt(NUM_COMPARED)
        difference = np.abs(few.mean(axis=axis) - many.mean(axis=axis)) / np.maximum(error, 1e-3 * error.max())
        label = f"{name} of draws by {FEW} evaluations less those by {MANY}, in their sample error"
        figures.append(below(f"{label}, largest", difference.max(), 0.5))
    return figures


def known_noise(prior: bd.DiffusionModel, maps: Maps) -> list[Figure]:
    """Errors of posterior means over the Wiener filter's, and coverage of posterior draws per band."""
    errors = denoising_errors(prior, maps.patches())
    figures = [
        below(f"s = {s:g}: mean square error of the posterior mean over the Wiener filter's", ratio, 1.0)
        for s, ratio in zip(errors["noise_levels"], errors["error_over_wiener"], strict=True)
    ]
    truth = maps.patches()
    truth = truth[np.linspace(0, len(truth) - 1, NUM_PATCHES).astype(int)]
    bands = [f"{low:g} to {high:g}" for low, high in zip(BAND_EDGES, BAND_EDGES[1:], strict=False)]
    table = Table("s", "level", *bands, title="Share of true modes in the central interval, by |k|")
    for s in NOISE_LEVELS:
        coverage = band_coverage(truth, posterior_draws(prior, truth, s), edges=BAND_EDGES, levels=LEVELS)
        for i, level in enumerate(LEVELS):
            shares = coverage.coverage.observed[0, :, i]
            table.add_row(f"{s:g}", f"{level:.0%}", *(f"{x:.3f}" for x in shares))
            label = f"s = {s:g}: {level:.0%} coverage of modes: largest difference of a band"
            figures.append(below(label, np.abs(shares - level).max(), 0.05))
    Console(width=140).print(table)
    return figures


def posterior_draws(prior: bd.DiffusionModel, truth: np.ndarray, s: float) -> np.ndarray:
    """Noisy versions of fields (num, 1, H, W), denoised: draws (num, draws, 1, H, W)."""
    mixture = bd.NoisyDiffusion(prior, s)
    draw = jax.jit(lambda key, y: mixture.sample_latent(key, jnp.broadcast_to(y, (NUM_POSTERIOR, *y.shape))))
    out = []
    for index, x in enumerate(truth):
        noise_key, key = jax.random.split(jax.random.fold_in(jax.random.key(21), index))
        y = jnp.asarray(x) + s * jax.random.normal(noise_key, x.shape)
        out.append(np.asarray(draw(key, y)))
    return np.stack(out)
