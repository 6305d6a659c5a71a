"""The window adaptation on draws whose scale is known."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from blackjax.mcmc.hmc import HMCState

import bayesdiff as bd
from bayesdiff.sampling.adaptation import early_windows, window_adaptation
from bayesdiff.sampling.steps import compile_run
from bayesdiff.sampling.target import build_target

WIDTHS = np.array([0.1, 0.3, 5.0])
NUM_WARMUP = 200


def adapt(positions, gradients, dense_mass=False):
    """The state after a warm-up through these positions and gradients (iteration, chain, size)."""
    adaptation = window_adaptation(len(positions), 0.8, dense_mass, lambda values: values)

    def step(index, state):
        current = HMCState(positions[index], jnp.zeros(positions.shape[1]), gradients[index])
        return adaptation.update(index, state, current, jnp.full(positions.shape[1], 0.8))

    return jax.lax.fori_loop(0, len(positions), step, adaptation.init(positions[0], gradients[0]))


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


def test_a_window_in_which_nothing_moves_changes_nothing():
    positions = jnp.broadcast_to(jnp.asarray([[1.0, 2.0, 3.0], [3.0, 4.0, -1.0]]), (NUM_WARMUP, 2, 3))
    gradients = -positions / WIDTHS**2
    inverse = adapt(positions, gradients).inverse_mass_matrix
    # What the starting points say: the deviation of positions over that of gradients.
    np.testing.assert_allclose(inverse, np.broadcast_to(WIDTHS**2, inverse.shape), rtol=1e-5)


def test_one_chain_that_does_not_move_has_a_matrix_of_ones():
    positions = jnp.ones((NUM_WARMUP, 1, 3))
    np.testing.assert_array_equal(adapt(positions, -positions).inverse_mass_matrix, np.ones((1, 3)))


@pytest.mark.parametrize(
    ("num_warmup", "ends"),
    [(20, [14]), (60, [40]), (100, [25, 67]), (150, [25, 100]), (300, [25, 75, 250]), (1000, [25, 75, 175, 375, 950])],
)
def test_windows_double_and_leave_time_for_the_step_size(num_warmup, ends):
    windows = early_windows(num_warmup)
    assert [index + 1 for index, (_, is_end) in enumerate(windows) if is_end] == ends
    assert sum(counts for counts, _ in windows) == ends[-1]
    assert len(windows) == num_warmup


def test_the_warm_up_of_narrow_values_is_cheap():
    """A hundred iterations with a matrix of ones would take trajectories of hundreds of gradients."""
    widths = jnp.geomspace(0.003, 1.0, 100)

    def model(y=None):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand((100,)).to_event(1))
        numpyro.sample("y", dist.Normal(x, widths).to_event(1), obs=y)

    target = build_target(jax.random.key(0), model, (jnp.linspace(-1.0, 1.0, 100),))
    prepared = bd.NUTS(num_warmup=100, dense_mass=False).prepare(jax.random.key(1), target, 4, False)
    programs, state = compile_run(jax.random.key(2), prepared, 4, ())
    _, _, info = programs.steps(0, 100, state)
    assert np.mean(np.asarray(info["n_steps"])[:100]) < 30
