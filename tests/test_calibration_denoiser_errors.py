"""Errors that a denoiser makes beside those that it claims: equal for the twin, off by a known amount if wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.fourier import filter_field
from models.linear_gaussian import make_twin, power_law

SIZE, LEVEL = 16, 0.7
EDGES = np.array([0.5, 2.0, 4.0, 6.0, 8.5])


@pytest.fixture(scope="module")
def fields() -> jax.Array:
    white = jax.random.normal(jax.random.key(1), (256, 1, SIZE, SIZE))
    return filter_field(white, jnp.sqrt(power_law(SIZE, -2.0)))


def prior(factor: float = 1.0) -> bd.DiffusionModel:
    """The Gaussian field whose power is ``factor`` times that of the fields."""
    denoiser = bd.GaussianDenoiser(factor * jnp.asarray(power_law(SIZE, -2.0)))
    return bd.DiffusionModel(denoiser, bd.schedules.Cosine(), bd.WhiteNoise(), (1, SIZE, SIZE))


def test_the_twin_makes_the_errors_that_it_claims(fields: jax.Array) -> None:
    found = bd.calibration.check_denoiser(jax.random.key(0), prior(), fields, LEVEL, edges=EDGES)
    assert np.abs((found.made - found.claimed) / found.standard_error).max() < 4.0
    assert abs(found.excess) < 4.0 * found.excess_error
    signal = bd.fields.power_spectrum(fields, edges=EDGES).power.mean(axis=0)
    assert found.claimed == pytest.approx(np.asarray(signal / (signal + LEVEL**2)), rel=0.15)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_wrong_power_is_off_by_the_known_amount(fields: jax.Array, factor: float) -> None:
    """W = fP / (fP + s^2) makes (1 - W)^2 P / s^2 + W^2 and claims W."""
    power = np.asarray(power_law(SIZE, -2.0), dtype=np.float64)
    wiener = factor * power / (factor * power + LEVEL**2)
    expected = float(np.mean((1.0 - wiener) ** 2 * power / LEVEL**2 + wiener**2 - wiener))
    found = bd.calibration.check_denoiser(jax.random.key(0), prior(factor), fields, LEVEL)
    assert np.sign(expected) == np.sign(1.0 - factor)
    assert abs(found.excess - expected) < 4.0 * found.excess_error
    assert abs(found.excess) > 8.0 * found.excess_error


def test_coloured_noise_and_a_context_are_those_of_the_prior() -> None:
    twin = make_twin(SIZE)
    white = jax.random.normal(jax.random.key(2), (256, 1, SIZE, SIZE))
    x = filter_field(white, jnp.sqrt(power_law(SIZE)))
    context = {"H0": 70.0, "omega_b": 0.0225}
    found = bd.calibration.check_denoiser(jax.random.key(0), twin, x, 0.5, context)
    assert abs(found.excess) < 4.0 * found.excess_error
    assert np.abs((found.made - found.claimed) / found.standard_error).max() < 4.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], "fields must be"),
        (lambda x: x[:1], "num > 1"),
        (lambda x: x.at[0, 0, 0, 0].set(jnp.nan), "finite"),
    ],
)
def test_fields_that_cannot_be_judged_are_refused(fields: jax.Array, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bd.calibration.check_denoiser(jax.random.key(0), prior(), change(fields), LEVEL)


def test_a_noise_level_beyond_the_schedule_is_refused(fields: jax.Array) -> None:
    with pytest.raises(ValueError, match="noise_level must be between"):
        bd.calibration.check_denoiser(jax.random.key(0), prior(), fields, 1e9)
