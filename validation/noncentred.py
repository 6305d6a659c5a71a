"""Sampling of a whole field against the exact posterior, on the analytic twin: without centre, and by Gibbs.

A Gaussian field of 32 x 32 pixels is seen through a mask in white noise of unknown level. Given the noise level the
posterior of the field is Gaussian and known in closed form; the exact answer averages it over the noise level, whose
marginal likelihood is known too, on a fine grid. NUTS and the microcanonical sampler run on the same NumPyro model, in
which the field is a latent ``DiffusionPrior`` that ``bayesdiff.noncentred`` replaces by unit normal values; Gibbs takes
it as it is.

Modes are those of the Hartley transform, real and orthonormal: Re F - Im F.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray as xr

import bayesdiff as bd
from models.linear_gaussian import make_twin
from validation.figures import Figure, above, below

SIZE = 32
NOISE_LEVELS = (0.05, 2.0)
TRUE_NOISE_LEVEL = 0.3
NUM_SAMPLES, NUM_GIBBS = 64_000, 8_000
CONTEXT = (67.0, 0.0224)


class ModePosterior(NamedTuple):
    """Exact posterior: mean and variance of every Hartley mode, shape (modes,), and of log s."""

    mean: np.ndarray
    variance: np.ndarray
    log_s_mean: float
    log_s_variance: float


class Problem(NamedTuple):
    """The prior, which pixels are observed, their values, and the exact answer."""

    prior: bd.DiffusionPrior
    observed: np.ndarray
    y: jax.Array
    exact: ModePosterior


def problem(noise: bd.WhiteNoise | None = None) -> Problem:
    """The masked field, whose diffusion has the twin's own noise or another."""
    twin = make_twin(SIZE)
    observed = random_mask(SIZE)
    prior = bd.DiffusionPrior(twin, CONTEXT)
    x = prior.sample(jax.random.key(1))
    if noise is not None:
        prior = bd.DiffusionPrior(bd.DiffusionModel(twin.denoiser, twin.schedule, noise, twin.event_shape))
    noise_of_data = jax.random.normal(jax.random.key(2), (int(observed.sum()),))
    y = x.reshape(-1)[np.flatnonzero(observed)] + TRUE_NOISE_LEVEL * noise_of_data
    power = np.broadcast_to(np.asarray(twin.twin.power, dtype=np.float64), (SIZE, SIZE))  # pyright: ignore
    return Problem(prior, observed, y, mode_posterior(power, observed, np.asarray(y, dtype=np.float64)))


def run() -> list[Figure]:
    """Figures of the samplers of unit normal values."""
    prior, observed, y, exact = problem()
    model = bd.noncentred(masked_model(prior, observed))
    algorithms = {
        "NUTS": (bd.NUTS(num_warmup=500, dense_mass=False), 1),
        "AdjustedMCLMC": (bd.AdjustedMCLMC(num_warmup=500), 2),
    }
    figures = []
    for name, (algorithm, gradients_per_step) in algorithms.items():
        data = bd.sample(jax.random.key(3), model, y, algorithm=algorithm, num_samples=NUM_SAMPLES, keep=("x", "s"))
        compared, ess = _compare(name, data, exact)
        gradients = gradients_per_step * float(data["sample_stats"].to_dataset()["n_steps"].sum())
        per_gradient = f"{name}: smallest effective sample size per 1,000 gradients"
        figures += [*compared, Figure(per_gradient, 1000.0 * ess / gradients), _seconds(name, data)]
    return figures


def gibbs() -> list[Figure]:
    """Figures of Gibbs, which takes the model as it is, with a diffusion in white noise."""
    prior, observed, y, exact = problem(bd.WhiteNoise())
    algorithm = bd.GibbsDiffusion(num_warmup=300, num_diffusion_steps=1)
    model, name = masked_model(prior, observed), "GibbsDiffusion"
    data = bd.sample(jax.random.key(3), model, y, algorithm=algorithm, num_samples=NUM_GIBBS, keep=("x", "s"))
    compared, ess = _compare(name, data, exact)
    sweeps = algorithm.num_field_steps * data["posterior"]["x"].shape[0] * NUM_GIBBS
    per_draw = f"{name}: smallest effective sample size per 1,000 draws of the field"
    return [*compared, Figure(per_draw, 1000.0 * ess / sweeps), _seconds(name, data)]


def random_mask(size: int) -> np.ndarray:
    """Observed pixels, (size * size,): a disc and a tenth of the others are missing."""
    rows, columns = np.indices((size, size)) - size // 3
    hole = rows**2 + columns**2 < (size / 6.0) ** 2
    return (~hole & (np.random.default_rng(3).random((size, size)) > 0.1)).ravel()


def masked_model(prior: bd.DiffusionPrior, observed: np.ndarray) -> Callable[..., None]:
    """NumPyro model: the observed pixels of a field in white noise of unknown level s."""
    pixels = np.flatnonzero(observed)

    def model(y=None):
        s = numpyro.sample("s", dist.LogUniform(*NOISE_LEVELS))
        x = jnp.asarray(numpyro.sample("x", prior))
        numpyro.sample("y", dist.Normal(x.reshape(-1)[pixels], s).to_event(1), obs=y)

    return model


def hartley(field: np.ndarray) -> np.ndarray:
    """Modes of fields (..., H, W), shape (..., H * W)."""
    modes = np.fft.fft2(field, norm="ortho")
    return (np.real(modes) - np.imag(modes)).reshape(*field.shape[:-2], -1)


def mode_posterior(power: np.ndarray, observed: np.ndarray, y: np.ndarray, mean: float = 0.0) -> ModePosterior:
    """Exact posterior of a Gaussian field in white noise of unknown level, log-uniform on ``NOISE_LEVELS``.

    Args:
        power: of the field, (H, W).
        observed: which pixels are, (H * W,).
        y: their values.
        mean: of the field.
    """
    basis = hartley(np.eye(power.size).reshape(-1, *power.shape)).T
    covariance = basis.T @ (power.ravel()[:, None] * basis)
    eigenvalues, vectors = np.linalg.eigh(covariance[np.ix_(observed, observed)])
    coefficients = vectors.T @ (y - mean)
    response = basis @ covariance[:, observed] @ vectors
    low, high = np.log(NOISE_LEVELS)
    log_s = np.linspace(low, high, 2001)
    total = eigenvalues + np.exp(2.0 * log_s)[:, None]
    log_likelihood = -0.5 * np.sum(coefficients**2 / total + np.log(total), axis=1)
    weight = np.exp(log_likelihood - log_likelihood.max())
    weight /= weight.sum()
    prior_mean = hartley(np.full(power.shape, mean))
    means = prior_mean + (coefficients / total) @ response.T
    variances = power.ravel() - (1.0 / total) @ (response**2).T
    mixed = weight @ means
    log_s_mean = weight @ log_s
    return ModePosterior(
        mixed,
        weight @ (variances + (means - mixed) ** 2),
        float(log_s_mean),
        float(weight @ (log_s - log_s_mean) ** 2),
    )


def deviations(
    draws: np.ndarray, mean: np.ndarray, variance: np.ndarray, known_spread: bool = False
) -> tuple[np.ndarray, np.ndarray, float]:
    """Deviations of sample mean and variance in Monte Carlo standard errors, (modes,) each, and the smallest ESS.

    Args:
        draws: (chain, draw, modes).
        mean: exact means.
        variance: exact variances; a draw's squared distance from the exact mean averages to it.
        known_spread: take the spread of draws from the exact variance, as of a Gaussian, instead of from the draws. The
            spread of squares is small where their mean happens to be, and makes low variances look significant.
    """
    results = []
    smallest = np.inf
    parts = ((draws, mean, np.sqrt(variance)), ((draws - mean) ** 2, variance, np.sqrt(2.0) * variance))
    for values, truth, spread in parts:
        array = xr.DataArray(values, dims=("chain", "draw", "mode"))
        ess = arviz_stats.ess(array, method="mean").values
        smallest = min(smallest, float(ess.min()))
        error = (spread if known_spread else values.std(axis=(0, 1))) / np.sqrt(ess)
        results.append((values.mean(axis=(0, 1)) - truth) / error)
    return results[0], results[1], smallest


def _compare(name: str, data: xr.DataTree, exact: ModePosterior) -> tuple[list[Figure], float]:
    """Figures of one sampler, and its smallest effective sample size."""
    posterior = data["posterior"].to_dataset()
    modes = hartley(posterior["x"].values[:, :, 0].astype(np.float64))
    mean, variance, ess = deviations(modes, exact.mean, exact.variance)
    _, by_exact, _ = deviations(modes, exact.mean, exact.variance, known_spread=True)
    log_s = np.log(posterior["s"].values.astype(np.float64))[..., None]
    level = deviations(log_s, np.array([exact.log_s_mean]), np.array([exact.log_s_variance]))
    rhat = float(arviz_stats.rhat(posterior["x"]).max())
    smallest = min(ess, level[2])
    figures = [
        below(f"{name}: posterior mean per mode, largest of {SIZE**2} [standard errors]", np.abs(mean).max(), 4.0),
        below(f"{name}: posterior variance per mode, largest [standard errors]", np.abs(variance).max(), 4.0),
        Figure(f"{name}: the same by the exact spread of squares instead of the draws'", float(np.abs(by_exact).max())),
        Figure(
            f"{name}: rms deviation of the means [standard errors; 1 is expected]", float(np.sqrt(np.mean(mean**2)))
        ),
        Figure(f"{name}: rms deviation of the variances [standard errors]", float(np.sqrt(np.mean(variance**2)))),
        below(f"{name}: mean of log s [standard errors]", abs(float(level[0][0])), 4.0),
        below(f"{name}: variance of log s [standard errors]", abs(float(level[1][0])), 4.0),
        below(f"{name}: largest R-hat of a pixel", rhat, 1.01),
        above(f"{name}: smallest effective sample size", smallest, 400.0),
    ]
    return figures, smallest


def _seconds(name: str, data: xr.DataTree) -> Figure:
    return Figure(f"{name}: seconds of sampling, compiling apart", float(data.attrs["sampling_seconds"]))
