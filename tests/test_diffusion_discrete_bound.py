"""The bound in discrete steps: against the closed form on the twin, term by term, and what its parts lose."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.discrete_bound import DiscreteBound, term_importance
from bayesdiff.diffusion.noise import gaussian_log_density
from models.gaussian_fields.data import exact_prior
from tests.diffusion_toys import filtered, red_power

pytestmark = pytest.mark.usefixtures("x64")

SIZE = 8
CONTEXT = np.zeros(0)


@pytest.fixture
def model():
    return bd.DiffusionModel(
        bd.GaussianDenoiser(jnp.asarray(red_power(SIZE)), 0.3),
        bd.schedules.Cosine(12.0),
        bd.StationaryNoise(jnp.asarray(red_power(SIZE, -1.0))),
        (1, SIZE, SIZE),
    )


def field(seed: int = 0, s: float = 0.0) -> jax.Array:
    white = np.random.default_rng(seed).normal(size=(1, SIZE, SIZE))
    return jnp.asarray(0.3 + filtered(white, np.sqrt(red_power(SIZE) + s**2 * red_power(SIZE, -1.0))))


def exact(y, s):
    return float(gaussian_log_density(y - 0.3, jnp.asarray(red_power(SIZE) + s**2 * red_power(SIZE, -1.0))))


def discrete_bound_of_the_twin(y, s, schedule, num: int) -> np.ndarray:
    """The expectations of all terms over noise, mode by mode, written out from the Gaussian posteriors."""
    power, noise = red_power(SIZE), red_power(SIZE, -1.0)
    squared = np.abs(np.fft.fft2(np.asarray(y[0]) - 0.3, norm="ortho")) ** 2
    start = float(schedule.time_of_noise_level(s))
    t = start + (1.0 - start) * np.arange(num + 1) / num
    levels = np.exp(-0.5 * np.asarray(schedule.log_snr(t)))
    levels[0] = s
    total = power + s**2 * noise
    terms = []
    for i in range(num):
        v = (levels[i + 1] ** 2 - s**2) * noise
        # E |y - E[y | y']|^2 for y' = y + noise of variance v: bias from the prior's mean, and filtered noise.
        gain = total / (total + v)
        error = (1.0 - gain) ** 2 * squared + gain**2 * v
        if i == 0:
            terms.append(0.5 * np.sum(error / v + np.log(2.0 * np.pi * v)))
        else:
            below = (levels[i] ** 2 - s**2) * noise
            terms.append(0.5 * np.sum((1.0 / below - 1.0 / v) * error))
    v = (levels[-1] ** 2 - s**2) * noise
    end = power + levels[-1] ** 2 * noise
    terms.append(0.5 * np.sum((squared + v) / end - 1.0 - np.log(v / end)))
    return np.array(terms)


@pytest.mark.parametrize("s", [0.01, 0.5])
def test_terms_are_those_of_the_gaussian_field(model, s):
    y = field(1, s)
    truth = discrete_bound_of_the_twin(y, s, model.schedule, 40)
    for terms, value in ((1, truth[:1]), ([3, 17, 39], truth[[3, 17, 39]]), (None, truth)):
        bound = jax.jit(jax.vmap(lambda key, t=terms: DiscreteBound(40, t, key=key)(model, y, jnp.asarray(s), CONTEXT)))
        values = -np.asarray(bound(jax.random.split(jax.random.key(0), 36)))
        error = values.std(ddof=1) / 6.0
        assert error < 3.0
        assert abs(values.mean() - value.sum()) < 4.0 * error


def test_many_steps_tend_to_the_density_less_half_of_eulers_gamma_per_pixel(model):
    y = field(2, 0.3)
    gaps = [exact(y, 0.3) + discrete_bound_of_the_twin(y, 0.3, model.schedule, n).sum() for n in (50, 200, 1000)]
    limit = 0.5 * np.euler_gamma * SIZE**2
    assert gaps[0] > gaps[1] > gaps[2] > limit
    assert gaps[2] == pytest.approx(limit, rel=0.02)


def test_sampled_terms_are_unbiased_for_any_importance(model):
    y = field(3, 0.3)
    whole = discrete_bound_of_the_twin(y, 0.3, model.schedule, 60)[:60]
    weights = np.linspace(3.0, 0.5, 60)
    for importance in (None, weights):

        def value(key, importance=importance):
            return DiscreteBound(60, range(60), key=key, num_sampled=6, importance=importance)(
                model, y, jnp.asarray(0.3), CONTEXT
            )

        values = -np.asarray(jax.jit(jax.vmap(value))(jax.random.split(jax.random.key(1), 400)))
        error = values.std(ddof=1) / 20.0
        assert abs(values.mean() - whole.sum()) < 4.0 * error


@pytest.mark.slow
def test_noise_is_fixed_and_gradients_are_those_of_the_same_function():
    model = exact_prior(SIZE)
    x = bd.DiffusionPrior(model, (0.1, 2.4)).sample(jax.random.key(0))
    bound = DiscreteBound(20, num_noise=2)
    value = jax.jit(lambda c: bd.DiffusionPrior(model, c, bound).log_prob(x))
    context = jnp.array([0.2, 2.3])
    assert float(value(context)) == float(value(context))
    slope = np.asarray(jax.grad(value)(context))
    for i in range(2):
        ends = [float(value(context.at[i].add(d))) for d in (-1e-5, 1e-5)]
        assert slope[i] == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-4)
    leaves, structure = jax.tree.flatten(bound)
    assert float(bd.DiffusionPrior(model, context, structure.unflatten(leaves)).log_prob(x)) == pytest.approx(
        float(value(context))
    )


@pytest.mark.slow
def test_importance_follows_what_parameters_change():
    model = exact_prior(SIZE)
    contexts = jnp.array([[0.0, 2.5], [0.3, 2.0]])
    fields = jnp.stack([bd.DiffusionPrior(model, c).sample(jax.random.key(i)) for i, c in enumerate(contexts)])
    weights = term_importance(model, fields, contexts, contexts + 0.1, 50, num_levels=40, num_noise=2)
    assert weights.shape == (50,)
    assert weights.sum() == pytest.approx(1.0)
    assert weights.min() > 0.0

    def scatter(importance):
        def difference(key):
            bound = DiscreteBound(50, range(50), key=key, num_sampled=10, importance=importance)
            return bound(model, fields[0], jnp.asarray(0.01), contexts[0]) - bound(
                model, fields[0], jnp.asarray(0.01), contexts[0] + 0.1
            )

        return np.std(np.asarray(jax.jit(jax.vmap(difference))(jax.random.split(jax.random.key(0), 200))))

    assert scatter(weights) < scatter(None)


def test_bad_terms_are_refused():
    assert DiscreteBound(1000, terms=20).num_evaluations == 40
    assert DiscreteBound(num_sampled=64).num_evaluations == 128
    for bad in ([], [0, 0], [1000], [-1], 1001):
        with pytest.raises(ValueError, match="different numbers between 0 and 999"):
            DiscreteBound(1000, terms=bad)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        DiscreteBound(0)
    with pytest.raises(ValueError, match="give both"):
        DiscreteBound(10, importance=np.ones(10))
    with pytest.raises(ValueError, match="must be 10 positive weights"):
        DiscreteBound(10, num_sampled=4, importance=np.ones(9))
