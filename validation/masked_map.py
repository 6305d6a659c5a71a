"""Held-out dust under a mask and inhomogeneous noise of unknown level and calibration, by Gibbs with the trained prior.

The prior is one of shapes, whose amplitude a and offset m are parameters, so that the data tell the products of both
with the calibration c, and how well c is known is what the distribution of a and m allows: a closed form. Beside it the
Gaussian twin of the prior of whole windows, on the same map with its calibration told: the twin believes that all
windows have one amplitude.

Chains that leave the network out of their gradients are quick where pixels are observed. Where none is, a field is held
by the prior alone and moves by the noise of the best pixels at a time, so that observed pixels and holes are reported
apart.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import bayesdiff as bd
from inference.folder import RESULT, RUNNING_STORE, clear_output
from inference.masked_map import NUM_DIFFUSION_STEPS, reconstruct, write_results
from inference.sampled_field import field_draws
from models.denoising.data import load_dust
from models.denoising.prior import DUST, DUST_SHAPES
from models.denoising.scale import standardised, window_scale
from models.masked_map.model import CALIBRATION_SD, make_model, unknowns
from models.masked_map.observation import MaskedMap, observe, scan_noise, survey_mask
from validation.figures import RESULTS, Figure, below, between

NUM_WARMUP, NUM_SAMPLES, PATCH, LEVEL, CALIBRATION = 100, 800, 4, 0.3, 1.04
NUM_PRODUCTS = 400
NUM_SWEPT, NUM_SWEEPS, SWEEP_LEVEL = 4, 300, 0.5
EDGE = 2
"""Pixels from a hole to those that are called observed: nearer ones hang on it."""


def run(folder: Path = RESULTS / "masked_map") -> list[Figure]:
    """Figures of both priors on one map."""
    trained, whole = bd.load_pretrained(DUST_SHAPES.name), bd.load_pretrained(DUST.name)
    twin = bd.DiffusionModel(whole.twin, whole.schedule, whole.noise, whole.event_shape, card=whole.card)  # pyright: ignore
    field = load_dust().patches()[PATCH]
    size = field.shape[-1]
    words = "held-out dust under a mask and noise"
    observed = observe(jax.random.key(6), field, survey_mask(size), scan_noise(size), LEVEL, CALIBRATION, words)
    results = {
        "trained": mapped(observed, trained, folder / "trained", CALIBRATION_SD),
        "twin": mapped(calibrated(observed), twin, folder / "twin", 0.0),
    }
    figures = [figure for name, data in results.items() for figure in of_result(name, data, observed)]
    errors = {name: rms_error(data, observed) for name, data in results.items()}
    for part in ("observed", "hidden"):
        ratio = errors["trained"][part] / errors["twin"][part]
        label = f"{part} pixels: rms error of the posterior mean, trained prior over twin"
        figures.append(below(label, ratio, 1.0) if part == "observed" else Figure(label, ratio))
    figures += of_calibration(results["trained"], trained)
    scatter = amplitude_slope(whole, load_dust().patches())
    label = f"{DUST.name}: score along the amplitude at the lowest noise level, rms over that of an exact score"
    figures.append(Figure(label, scatter))
    free = replace(trained, denoiser=replace(trained.denoiser, standardised=False))  # pyright: ignore
    windows = standardised(load_dust().patches())
    figures.append(Figure("brightest pixel of the held-out windows [their s.d.]", float(windows.max())))
    for words, prior in (("", trained), (", its norm left alone", free)):
        label = f"{DUST_SHAPES.name}{words}, fields after {NUM_SWEEPS} draws without data"
        last = swept(prior, windows[:NUM_SWEPT])
        figures.append(Figure(f"{label}: largest |s.d. - 1|", float(np.abs(last.std(axis=(-3, -2, -1)) - 1.0).max())))
        figures.append(Figure(f"{label}: brightest pixel", float(last.max())))
    return figures


def swept(prior: bd.DiffusionModel, fields: np.ndarray) -> np.ndarray:
    """Fields (num, 1, H, W) after Gibbs has drawn them again and again where nothing is seen.

    Each draw adds noise of ``SWEEP_LEVEL`` and takes it away by the reverse process, which leaves the prior as it is.
    """
    mixture = bd.NoisyDiffusion(prior, SWEEP_LEVEL)

    def sweep(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        noise, reverse = jax.random.split(key)
        y = x + SWEEP_LEVEL * jax.random.normal(noise, x.shape)
        return mixture.sample_latent(reverse, y, NUM_DIFFUSION_STEPS), None

    last = jax.jit(lambda x, keys: jax.lax.scan(sweep, x, keys)[0])
    return np.asarray(last(jnp.asarray(fields), jax.random.split(jax.random.key(9), NUM_SWEEPS)))


def calibrated(observed: MaskedMap) -> MaskedMap:
    """The map divided by its true calibration."""
    assert observed.truth is not None
    truth = {**observed.truth, "calibration": np.asarray(1.0)}
    noise = observed.relative_noise / CALIBRATION
    return observed._replace(y=observed.y / np.float32(CALIBRATION), relative_noise=noise, truth=truth)


def of_calibration(data: xr.DataTree, prior: bd.DiffusionModel) -> list[Figure]:
    """The posterior of the calibration c against what c a and c m, which the data tell, leave of it.

    Mean and standard deviation of p(log c | c a, c m), in closed form up to one integral, over draws of both products.
    """
    posterior, scale = data["posterior"].to_dataset(), window_scale(prior.card.entries)
    assert scale is not None
    found = np.asarray(posterior["calibration"]).ravel()
    log, product = np.log(found), np.asarray(posterior["calibration"] * posterior["amplitude"]).ravel()
    seen = np.asarray(posterior["calibration"] * posterior["offset"]).ravel()
    # With a = b / c and m = u / c all of Jacobians and normalisations cancels.
    grid = np.linspace(-6.0 * CALIBRATION_SD, 6.0 * CALIBRATION_SD, 601)
    a, m = (x[:: len(x) // NUM_PRODUCTS, None] / np.exp(grid) for x in (product, seen))
    squares = (grid / CALIBRATION_SD) ** 2 + ((np.log(a) - scale.log_mean) / scale.log_sd) ** 2
    squares += ((m - scale.constant - scale.slope * a) / (scale.scatter * a)) ** 2
    weight = np.exp(-0.5 * (squares - squares.min(axis=1, keepdims=True)))
    weight = np.mean(weight / weight.sum(axis=1, keepdims=True), axis=0)
    mean = float(weight @ grid)
    sd = float(np.sqrt(weight @ (grid - mean) ** 2))
    return [
        Figure(
            f"trained: calibration, {CALIBRATION:g} put in",
            f"{found.mean():.4f} ± {found.std():.4f}, z {(found.mean() - CALIBRATION) / found.std():+.1f}",
        ),
        below("trained: calibration: R-hat", float(arviz_stats.rhat(posterior["calibration"])), 1.02),
        below("trained: log calibration: |mean less the closed form's| [s.d.]", abs(log.mean() - mean) / sd, 0.2),
        between("trained: log calibration: s.d. over the closed form's", log.std() / sd, 0.85, 1.15),
        Figure("trained: calibration times amplitude: relative s.d.", float(product.std() / product.mean())),
    ]


def amplitude_slope(prior: bd.DiffusionModel, fields: np.ndarray) -> float:
    """Rms slope of log p(c y) + N log c in log c, at c = 1, over (2 N)^(1/2), which it is for a Gaussian field.

    y are fields of N pixels in the least noise of the schedule. A factor on a field is inferred by this.
    """
    s, context = jnp.asarray(prior.noise_levels()[0]), prior.context_array(None)

    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        key, x = pair
        y = x + s * jax.random.normal(key, x.shape)
        denoised = prior.denoiser(y, s, prior.noise_power(context), context)
        return jnp.sum(y * (denoised - y)) / s**2 + y.size

    slopes = jax.lax.map(one, (jax.random.split(jax.random.key(8), len(fields)), jnp.asarray(fields)))
    return float(jnp.sqrt(jnp.mean(slopes**2) / (2 * fields[0].size)))


def mapped(observed: MaskedMap, prior: bd.DiffusionModel, folder: Path, calibration_sd: float) -> xr.DataTree:
    """The posterior with one prior; a finished one is not done again."""
    if not (folder / RESULT).exists():
        store = folder / RUNNING_STORE
        if not store.exists():
            clear_output(folder)
        model = make_model(prior, observed.mask, observed.relative_noise, num_steps=None, calibration_sd=calibration_sd)
        algorithm = bd.GibbsDiffusion(num_warmup=NUM_WARMUP, num_diffusion_steps=NUM_DIFFUSION_STEPS)
        options: Any = {"unknown": unknowns(prior, calibration_sd), "num_samples": NUM_SAMPLES, "store": store}
        data = reconstruct(jax.random.key(7), observed, model, algorithm=algorithm, **options)
        write_results(data, observed, folder, prior, calibration_sd)
    return xr.open_datatree(folder / RESULT, engine="zarr").load()


def parts(observed: MaskedMap) -> dict[str, np.ndarray]:
    """Masks of the pixels that are observed with all their neighbours, and of the hidden ones."""
    near = np.zeros_like(observed.mask)
    for row in range(-EDGE, EDGE + 1):
        for column in range(-EDGE, EDGE + 1):
            near |= ~np.roll(observed.mask, (row, column), axis=(0, 1))
    return {"observed": ~near, "hidden": ~observed.mask}


def rms_error(data: xr.DataTree, observed: MaskedMap) -> dict[str, float]:
    """Of the posterior mean, in each part of the map."""
    assert observed.truth is not None
    error = (field_draws(data, "x").mean(axis=0) - observed.truth["x"])[0]
    return {name: float(np.sqrt(np.mean(error[where] ** 2))) for name, where in parts(observed).items()}


def of_result(name: str, data: xr.DataTree, observed: MaskedMap) -> list[Figure]:
    """The figures of one prior."""
    assert observed.truth is not None
    truth, draws = observed.truth["x"][0], field_draws(data, "x")[:, 0]
    posterior = data["posterior"].to_dataset()
    level = posterior["level"].values
    z = float((level.mean() - LEVEL) / level.std())
    figures = [
        Figure(f"{name}: noise level, {LEVEL:g} put in", f"{level.mean():.4f} ± {level.std():.4f}, z {z:+.1f}"),
        below(f"{name}: noise level: R-hat", float(arviz_stats.rhat(level)), 1.02),
    ]
    low, high = np.quantile(draws, [0.16, 0.84], axis=0)
    inside = (truth >= low) & (truth <= high)
    rhat = np.asarray(arviz_stats.rhat(posterior["x"]))[0]
    for part, where in parts(observed).items():
        share, worst = float(inside[where].mean()), float(np.quantile(rhat[where], 0.99))
        label = f"{name}: {part} pixels: truths in the central 68% interval"
        figures += [
            between(label, share, 0.63, 0.73) if (name, part) == ("trained", "observed") else Figure(label, share),
            Figure(f"{name}: {part} pixels: R-hat that 99% are below", worst),
        ]
    return [*figures, Figure(f"{name}: seconds of sampling, compiling apart", float(data.attrs["sampling_seconds"]))]
