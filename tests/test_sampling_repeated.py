"""Several iterations per draw, and the coordinates in which a surrogate is fitted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from bayesdiff.sampling.chains import Kernel
from bayesdiff.sampling.coordinates import coordinates_of
from bayesdiff.sampling.repeated import several_steps
from bayesdiff.sampling.target import build_target


def random_walk(num_warmup: int) -> Kernel:
    def step(key, index, state, data):
        moved = state + data * jax.random.normal(key, state.shape)
        return moved, {"diverging": moved > 1.0, "n_steps": jnp.ones(len(state), int), "lp": moved}

    return Kernel(lambda key, start, data: start, step, lambda state: {"x": state}, num_warmup)


def test_draw_is_several_iterations_after_the_warm_up_and_one_in_it():
    kernel, state = random_walk(5), jnp.array([0.0, 0.9])
    repeated = several_steps(kernel, 3)
    key = jax.random.key(0)
    by_hand, diverging = state, np.zeros(2, bool)
    for i in range(3):
        by_hand, info = kernel.step(jax.random.fold_in(key, i), jnp.asarray(7), by_hand, 2.0)
        diverging |= np.asarray(info["diverging"])
    moved, info = jax.jit(repeated.step)(key, jnp.asarray(7), state, 2.0)
    np.testing.assert_allclose(moved, by_hand, rtol=1e-6)
    np.testing.assert_array_equal(info["diverging"], diverging)
    np.testing.assert_array_equal(info["n_steps"], [3, 3])
    np.testing.assert_array_equal(info["lp"], moved)
    warm, info = jax.jit(repeated.step)(key, jnp.asarray(4), state, 2.0)
    np.testing.assert_allclose(warm, kernel.step(jax.random.fold_in(key, 0), jnp.asarray(4), state, 2.0)[0], rtol=1e-6)
    np.testing.assert_array_equal(info["n_steps"], [1, 1])
    assert several_steps(kernel, 3) is repeated
    assert several_steps(kernel, 1) is kernel


def test_bounded_sites_are_coordinates_in_units_of_their_range():
    def model(y=None):
        numpyro.sample("a", dist.Uniform(2.0, 6.0))
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("c", dist.Uniform(-1.0 - b**2, 0.0))
        numpyro.sample("d", dist.LogUniform(0.1, 10.0))
        numpyro.sample("e", dist.Gamma(2.0))
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)

    target = build_target(jax.random.key(0), model, (jnp.asarray(0.3),))
    coordinates = coordinates_of(jax.random.key(1), target)
    assert coordinates.bounded == {"a", "d"}
    position = target.functions.draw_prior(jax.random.key(2), target.data)
    values = target.functions.constrain(position, target.data)
    expected = [(values["a"] - 2.0) / 4.0, position["b"], position["c"], (values["d"] - 0.1) / 9.9, position["e"]]
    np.testing.assert_allclose(coordinates(position), jnp.stack(expected), rtol=1e-4, atol=1e-6)
