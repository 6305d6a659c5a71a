"""Data that the twin does not describe: what the simulators make, and whether one observation gives them away."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.fourier import mode_power
from bayesdiff.sampling.target import build_target
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.linear_gaussian import PIXEL_ARCMIN, make_twin
from validation import misspecification
from validation.alarms import look
from validation.mixture_misspecification import noisier, on_skies
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


@pytest.fixture(scope="module")
def skies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, jax.Array]:
    path = tmp_path_factory.mktemp("skies") / "skies.npz"
    made = misspecification.curved_skies(path, SIZE, PIXEL_ARCMIN, 2)
    again = misspecification.curved_skies(path, SIZE, PIXEL_ARCMIN, 2)
    np.testing.assert_array_equal(again["patches"], made["patches"])
    return made


def test_patches_of_curved_skies_are_in_the_unit_of_the_model(skies: dict[str, jax.Array]) -> None:
    assert skies["patches"].shape == (2, misspecification.PATCHES_PER_SKY, SIZE, SIZE)
    # Within a patch, where the model has unit variance; its mean is that of waves that the model has not.
    within = float(jnp.std(skies["patches"] - skies["patches"].mean(axis=(-2, -1), keepdims=True)))
    assert within == pytest.approx(1.0, abs=0.1)


def test_mixtures_with_a_curved_sky_know_its_cosmology(twin: bd.DiffusionModel, skies: dict[str, jax.Array]) -> None:
    values = jax.jit(jax.vmap(partial(on_skies, twin, skies)))(jax.random.split(jax.random.key(4), 40))
    assert set(np.asarray(values["H0"])) == set(np.asarray(skies["H0"]))
    index = np.array([int(np.flatnonzero(np.asarray(skies["H0"]) == H0)[0]) for H0 in np.asarray(values["H0"])])
    np.testing.assert_array_equal(values["omega_b"], skies["omega_b"][index])
    inside = np.asarray(values["y"] - values["y"].mean(axis=(-2, -1), keepdims=True))
    expected = 1.0 + 1.01 * np.mean(np.asarray(values["sigma"]) ** 2)
    assert np.mean(inside**2) == pytest.approx(expected, rel=0.35)


def test_noise_of_another_level_is_the_instruments_alone(twin: bd.DiffusionModel) -> None:
    values = jax.jit(jax.vmap(partial(noisier, twin)))(jax.random.split(jax.random.key(5), 400))
    found = mode_power(values["y"]).mean(axis=0)[0]
    contexts = jnp.stack([values["H0"], values["omega_b"]], axis=1)
    level = values["sigma"][:, None, None] ** 2
    right = twin.twin_at(twin.context_array(tuple(contexts[0]))).power + jnp.mean(
        level * jax.vmap(twin.noise_power)(contexts), axis=0
    )
    # The model has a hundredth of the CMB's variance; these mixtures have four times that, in every mode alike.
    excess = (found - right)[SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]
    assert float(excess.mean()) == pytest.approx(0.03 * float(jnp.mean(level)), rel=0.15)


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
