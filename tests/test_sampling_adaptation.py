"""The window adaptation on draws whose scale is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.hmc import HMCState

from bayesdiff.sampling.adaptation import window_adaptation

WIDTHS = np.array([0.1, 0.3, 5.0])
NUM_WARMUP = 200


def adapt(positions, gradients, dense_mass=False):
    """The state after a warm-up through these positions and gradients (iteration, chain, size)."""
    adaptation = window_adaptation(len(positions), 0.8, dense_mass, lambda values: values)

    def step(index, state):
        current = HMCState(positions[index], jnp.zeros(positions.shape[1]), gradients[index])
        return adaptation.update(index, state, current, jnp.full(positions.shape[1], 0.8))

    return jax.lax.fori_loop(0, len(positions), step, adaptation.init(positions[0]))


def draws(num_chains, scale):
    """Independent draws of a Gaussian of these widths, times ``scale``, with its gradients."""
    units = np.random.default_rng(0).normal(size=(NUM_WARMUP, num_chains, len(WIDTHS)))
    positions = jnp.asarray(scale * WIDTHS * units, dtype=jnp.float32)
    return positions, -positions / WIDTHS**2


@pytest.mark.parametrize("scale", [1.0, 1e-3], ids=["mixing", "hardly moving"])
def test_the_scale_is_found_whether_the_chains_mix_or_not(scale):
    inverse = adapt(*draws(2, scale)).inverse_mass_matrix
    np.testing.assert_allclose(inverse, np.broadcast_to(WIDTHS**2, inverse.shape), rtol=0.35)


def test_correlated_values_keep_their_marginal_variance():
    covariance = np.array([[1.0, 0.95], [0.95, 1.0]])
    units = np.random.default_rng(1).multivariate_normal([0, 0], covariance, size=(NUM_WARMUP, 4))
    gradients = -units @ np.linalg.inv(covariance)
    inverse = adapt(jnp.asarray(units, jnp.float32), jnp.asarray(gradients, jnp.float32)).inverse_mass_matrix
    np.testing.assert_allclose(inverse, np.ones_like(inverse), rtol=0.2)


def test_chains_share_a_diagonal_matrix_but_not_a_dense_one():
    positions, gradients = draws(4, 1.0)
    diagonal = adapt(positions, gradients).inverse_mass_matrix
    np.testing.assert_array_equal(diagonal, np.broadcast_to(diagonal[0], diagonal.shape))
    # Where the chains are does not matter, only how they move.
    shifted = adapt(positions + 10.0 * jnp.arange(4.0)[:, None], gradients).inverse_mass_matrix
    np.testing.assert_allclose(shifted, diagonal, rtol=1e-2)
    dense = np.asarray(adapt(positions, gradients, dense_mass=True).inverse_mass_matrix)
    assert np.abs(dense[0] - dense[1]).max() > 1e-3
