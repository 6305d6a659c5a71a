"""Data that the twin does not describe: what the simulators make, and whether one observation gives them away."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.sampling.target import build_target
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.linear_gaussian import make_twin
from validation import misspecification
from validation.alarms import look
from validation.prior_misspecification import reddened

SIZE = misspecification.SIZE


@pytest.fixture(scope="module")
def twin() -> bd.DiffusionModel:
    return make_twin(SIZE)


def test_own_data_have_the_law_of_the_model(twin: bd.DiffusionModel) -> None:
    draw = partial(
        misspecification.simulate,
        partial(misspecification.twin_dust, twin),
        partial(misspecification.flat_noise, misspecification.NOISE_RMS),
    )
    keys = jax.random.split(jax.random.key(0), 2000)
    values = jax.jit(jax.vmap(draw))(keys)
    for name, (low, high) in PRIOR_BOUNDS.items():
        assert float(values[name].min()) >= low
        assert float(values[name].max()) <= high
    # The dust has unit variance, the CMB sigma^2 and the instrument noise a hundredth of that.
    expected = 1.0 + 1.01 * jnp.mean(values["sigma"] ** 2)
    assert float(jnp.mean(values["y"] ** 2)) == pytest.approx(float(expected), rel=0.06)


def test_one_observation_gives_a_wrong_amplitude_away(twin: bd.DiffusionModel) -> None:
    model, rng = make_model(twin), np.random.default_rng(1)
    truth = {"H0": 67.4, "omega_b": 0.0224, "sigma": 0.6}
    y = np.asarray(bd.NoisyDiffusion(twin, truth["sigma"], (truth["H0"], truth["omega_b"])).sample(jax.random.key(3)))
    # Draws near the truth stand for a posterior; then ones that know half of the amplitude only.
    draws = {name: value * (1.0 + 0.01 * rng.standard_normal(40)) for name, value in truth.items()}
    target = build_target(jax.random.key(0), model, (np.zeros_like(y),))
    right = look(jax.random.key(4), target, y, draws, twin.name, 39, 60)
    assert right.fields.shape == (39, 1, SIZE, SIZE)
    assert right.findings == ()
    wrong = look(jax.random.key(4), target, y, draws | {"sigma": 0.5 * draws["sigma"]}, twin.name, 39, 60)
    assert any("unlike data replicated" in finding for finding in wrong.findings)


def test_patches_of_curved_skies_are_in_the_unit_of_the_model(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(misspecification, "NUM_SKIES", 2)
    skies = misspecification.curved_skies(tmp_path / "skies.npz")
    assert skies["patches"].shape == (2, misspecification.PATCHES_PER_SKY, SIZE, SIZE)
    # Within a patch, where the model has unit variance; its mean is that of waves that the model has not.
    within = float(jnp.std(skies["patches"] - skies["patches"].mean(axis=(-2, -1), keepdims=True)))
    assert within == pytest.approx(1.0, abs=0.1)
    again = misspecification.curved_skies(tmp_path / "skies.npz")
    np.testing.assert_array_equal(again["patches"], skies["patches"])


def test_red_noise_has_the_level_of_white_noise_and_more_power_at_large_scales():
    keys = jax.random.split(jax.random.key(3), 64)
    white = bd.DiffusionModel(
        bd.GaussianDenoiser(jnp.ones((64, 64))), bd.schedules.Cosine(), bd.WhiteNoise(), (1, 64, 64)
    )
    simulated = jax.vmap(partial(reddened, white, lambda key: jnp.zeros((1, 64, 64))))(keys)
    noise = np.asarray(simulated["y"]) / np.asarray(simulated["noise_level"])[:, None, None, None]
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    power = np.asarray(bd.fields.power_spectrum(noise, edges=np.array([0.5, 2.5, 8.0, 32.0])).power)[:, 0].mean(axis=0)
    assert power[0] > 3.0 * power[2]
    assert power[1] > 1.5 * power[2]
