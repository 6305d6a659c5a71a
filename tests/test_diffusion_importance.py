"""Strata of the bound that follow where it varies: as unbiased as any others, and measured where they should be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.importance import noise_level_importance
from bayesdiff.diffusion.noise import gaussian_log_density
from bayesdiff.windows import LabelledFields
from models.density_fields.likelihood import measure_exponent, recommended_bound, recommended_surrogate
from models.gaussian_fields.data import exact_family, make_diffusion, simulate
from tests.diffusion_toys import filtered, red_power

pytestmark = pytest.mark.usefixtures("x64")

SIZE = 8


@pytest.mark.parametrize("s", [0.01, 0.3])
def test_bound_is_unbiased_with_any_importance(s):
    power = jnp.asarray(red_power(SIZE))
    model = bd.DiffusionModel(bd.GaussianDenoiser(power), bd.schedules.Cosine(10.0), bd.WhiteNoise(), (1, SIZE, SIZE))
    white = np.random.default_rng(0).normal(size=(1, SIZE, SIZE))
    y = jnp.asarray(filtered(white, np.sqrt(red_power(SIZE) + s**2)))
    exact = float(gaussian_log_density(y, power + s**2))
    weights = np.concatenate([np.full(8, 0.3), np.full(8, 2.0), np.full(8, 0.5)])

    def value(key):
        bound = bd.Elbo(16, 1, key, reference=False, importance=weights)
        return bound(model, y, jnp.asarray(s), jnp.zeros(0))

    values = np.asarray(jax.jit(jax.vmap(value))(jax.random.split(jax.random.key(0), 64)))
    error = values.std(ddof=1) / 8.0
    # Strata of a wide span leave much scatter at small s; what counts is that the mean is right.
    assert error < 12.0
    assert abs(values.mean() - exact) < 4.0 * error


def test_bound_does_not_jump_as_the_noise_level_moves():
    """Its strata move with the observation's noise level, across the parts of an importance that differ by much."""
    model = make_diffusion(exact_family(SIZE), SIZE)
    context, y = jnp.array([0.2, 2.2]), jax.random.normal(jax.random.key(4), (1, SIZE, SIZE))
    bound = bd.Elbo(8, 1, 5, reference=False, importance=[1.0, 8.0] * 6)
    levels = jnp.exp(jnp.linspace(jnp.log(0.1), jnp.log(0.4), 801))
    value = np.asarray(jax.jit(lambda s: jax.lax.map(lambda s: bound(model, y, s, context), s))(levels))
    # Half the step, half the change: a jump would stay what it is.
    assert np.abs(np.diff(value)).max() < 0.6 * np.abs(np.diff(value[::2])).max()


def test_importance_lies_where_the_models_differ():
    """A denoiser wrong at noise levels between 0.1 and 1 alone, by an amount that depends on the parameters."""
    family = exact_family(SIZE)
    model = make_diffusion(family, SIZE)
    fields, parameters = simulate(0, 3, SIZE)
    arrays = (jnp.asarray(fields, jnp.float64), jnp.asarray(parameters), jnp.asarray(parameters) + 0.05)
    np.testing.assert_allclose(noise_level_importance(model, *arrays, num_parts=6, num_noise=2), 1.0)

    class Wrong:
        reference = family

        def __call__(self, y, s, noise_power, context):
            bump = jnp.where((s > 0.1) & (s < 1.0), 0.3 * context[0], 0.0)
            return family(y, s, noise_power, context) + bump * s * jnp.tanh(y)

    weights = np.array(noise_level_importance(make_diffusion(Wrong(), SIZE), *arrays, num_parts=12, num_noise=4))
    edges = np.exp(np.linspace(-6.0, 6.0, 13))
    inside = (edges[:-1] > 0.1) & (edges[1:] < 1.0)
    assert weights.mean() == pytest.approx(1.0)
    assert weights[inside].min() > 5.0 * weights[(edges[1:] < 0.1) | (edges[:-1] > 1.0)].max()


def test_exponent_of_an_exact_likelihood_is_one():
    model = make_diffusion(exact_family(16), 16, bound_importance=[1.0] * 12, bound_exponent=0.5)
    fields, parameters = simulate(3, 60, 16)
    labelled = LabelledFields(jnp.asarray(fields, jnp.float32), jnp.asarray(parameters, jnp.float32))
    centre = parameters + np.random.default_rng(1).normal(size=parameters.shape) * [0.2, 0.2]
    width, quiet = np.full((60, 2), 0.3), lambda line: None
    found = measure_exponent(model, labelled, centre, width, np.arange(60), num_times=2, report=quiet)
    assert found.high - found.low < 0.8
    assert abs(found.value - 1.0) < 1.5 * (found.high - found.low)
    assert recommended_bound(model).exponent == 0.5
    assert recommended_surrogate(model).log_density.exponent == 0.5
    with pytest.raises(ValueError, match="must have bound_exponent"):
        recommended_bound(make_diffusion(exact_family(16), 16, bound_importance=[1.0]))


def test_bad_importance_is_refused():
    for bad in ([1.0, 0.0], [1.0, float("nan")], [-1.0]):
        with pytest.raises(ValueError, match="importance must be positive weights"):
            bd.Elbo(importance=bad)
