from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.reporting.parameters import diagnose
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.dust_cmb.observation import simulate_from_prior
from models.linear_gaussian import make_twin, power_law

SIZE, POINTS = 16, 28


def brute_force(y: np.ndarray, dust: bd.DiffusionModel) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of (H0, omega_b, sigma), by the sum over a grid of N(y; 0, P + sigma^2 S), in NumPy.

    Cells of equal prior mass, so the sum needs no weights; y is white in Fourier space, with chi^2 of its modes.
    """
    axes = [low + (high - low) * (np.arange(POINTS) + 0.5) / POINTS for low, high in PRIOR_BOUNDS.values()]
    noise = dust.noise
    assert isinstance(noise, bd.StationaryNoise)
    cosmologies = np.array(list(itertools.product(axes[0], axes[1])))
    power = jax.vmap(lambda context: noise.power(context, dust.event_shape))
    spectra = np.asarray(power(jnp.asarray(cosmologies)), dtype=float).reshape(len(cosmologies), -1)
    modes = np.abs(np.fft.fft2(y[0].astype(float), norm="ortho")).ravel() ** 2
    total = power_law(SIZE).ravel() + axes[2][:, None, None] ** 2 * spectra
    log_density = -0.5 * (modes / total + np.log(total)).sum(axis=-1).T.reshape(POINTS, POINTS, POINTS)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mesh = np.meshgrid(*axes, indexing="ij")
    mean = np.array([(weight * x).sum() for x in mesh])
    return mean, np.sqrt([(weight * (x - m) ** 2).sum() for x, m in zip(mesh, mean, strict=True)])


def test_power_law_has_unit_variance_and_falls() -> None:
    power = power_law(SIZE)
    assert power.mean() == pytest.approx(1.0)
    assert power[0, 2] / power[0, 1] == pytest.approx(2.0**-3)
    np.testing.assert_allclose(power, power.T)


@pytest.mark.slow
def test_nuts_with_the_closed_form_agrees_with_a_grid() -> None:
    dust = make_twin(SIZE)
    y = simulate_from_prior(jax.random.key(5), dust).y
    algorithm = bd.NUTS(num_warmup=300)
    data = bd.sample(jax.random.key(0), make_model(dust), y, algorithm=algorithm, num_samples=500, progress=False)
    mean, sd = brute_force(y, dust)
    for index, name in enumerate(PRIOR_BOUNDS):
        draws = np.asarray(data["posterior"][name].values, dtype=float)
        quality = diagnose(draws)
        assert quality.rhat < 1.02, name
        assert quality.ess_bulk > 300, name
        error = sd[index] / np.sqrt(quality.ess_bulk)
        assert abs(draws.mean() - mean[index]) < 4.0 * error, name
        # A standard deviation scatters by about sd / sqrt(2 ESS), more for tails heavier than a Gaussian's.
        assert abs(draws.std() - sd[index]) < 4.0 * sd[index] / np.sqrt(quality.ess_bulk), name
