"""The exponent of a power likelihood: one for a likelihood that is right, its defect for one that is too sure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.calibration import fit_exponent, gaussian_exponent

NUM, CANDIDATES = 400, 30


def simulations(overconfidence: float) -> tuple[np.ndarray, np.ndarray]:
    """A mean with a flat prior and one datum of unit noise, whose log likelihood is multiplied by a factor."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(-5.0, 5.0, NUM)
    data = truth + rng.normal(size=NUM)
    others = data[:, None] + 2.0 * rng.normal(size=(NUM, CANDIDATES))
    points = np.column_stack([truth, others])
    proposal = -0.5 * ((points - data[:, None]) / 2.0) ** 2
    return -0.5 * overconfidence * (points - data[:, None]) ** 2, proposal


@pytest.mark.parametrize("overconfidence", [1.0, 4.0])
def test_exponent_undoes_overconfidence(overconfidence):
    found = fit_exponent(*simulations(overconfidence))
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.3 / overconfidence
    error = 0.5 * (found.high - found.low)
    assert abs(found.value - 1.0 / overconfidence) < 3.0 * error
    if overconfidence > 1.0:
        assert found.high < 0.5
        assert found.score > found.score_at_one


@pytest.mark.parametrize("overconfidence", [1.0, 4.0])
def test_gaussian_exponent_is_that_of_candidates_everywhere(overconfidence):
    z = np.sqrt(overconfidence) * np.random.default_rng(1).normal(size=NUM)
    # A flat proposal so dense that the sum over candidates is the integral.
    points = np.column_stack([np.zeros(NUM), np.tile(np.linspace(-40.0, 40.0, 4000), (NUM, 1))])
    expected = fit_exponent(-0.5 * (points - z[:, None]) ** 2, np.zeros_like(points))
    found = gaussian_exponent(z)
    np.testing.assert_allclose(found[:3], expected[:3], rtol=0.02)
    assert found.score - found.score_at_one == pytest.approx(expected.score - expected.score_at_one, abs=0.01)
    assert found.value == pytest.approx(1.0 / np.mean(z**2))


def test_tempered_density_is_the_power_of_another(x64):
    model = bd.DiffusionModel(bd.GaussianDenoiser(jnp.ones((4, 4))), bd.schedules.Cosine(), bd.WhiteNoise(), (1, 4, 4))
    x = bd.DiffusionPrior(model).sample(jax.random.key(0))
    plain = float(bd.DiffusionPrior(model).log_prob(x))
    tempered = bd.DiffusionPrior(model, log_density=bd.Tempered(bd.Exact(), 0.25))
    assert float(tempered.log_prob(x)) == pytest.approx(0.25 * plain)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"one shape \(N, J\) with J of at least 2, got \(3, 1\)"):
        fit_exponent(np.zeros((3, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="must be finite"):
        fit_exponent(np.full((3, 2), np.nan), np.zeros((3, 2)))
    for z in (np.ones(1), np.ones((2, 2)), np.array([1.0, np.nan]), np.zeros(3)):
        with pytest.raises(ValueError, match="two finite numbers or more, not all zero"):
            gaussian_exponent(z)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        bd.Tempered(bd.Exact(), 1.5)
