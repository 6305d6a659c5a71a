"""Amplitude and offset of windows: the fit finds what made them, and the masked map of a prior of shapes uses both."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer import Predictive

import bayesdiff as bd
from bayesdiff.diffusion.model import Card
from models.denoising.data import Maps
from models.denoising.scale import WindowScale, fit_window_scale, standardised, window_scale
from models.masked_map.model import draw_field, make_model, parameter_priors, unknowns
from tests.diffusion_toys import red_power

SIZE = 16
SCALE = WindowScale(log_mean=-0.4, log_sd=0.5, constant=-0.6, slope=0.8, scatter=0.3)


@pytest.fixture
def shapes() -> bd.DiffusionModel:
    """A prior of shapes, though a Gaussian one: its norm is not fixed."""
    power = red_power(SIZE)
    gaussian = bd.GaussianDenoiser(jnp.asarray(power / power.mean()))
    card = Card({"window_scale": SCALE._asdict()})
    return bd.DiffusionModel(gaussian, bd.schedules.Cosine(), bd.WhiteNoise(), (1, SIZE, SIZE), card=card)


def test_the_scale_of_windows_is_found() -> None:
    """Of maps of one window each, whose amplitudes and offsets are drawn from a known distribution."""
    rng = np.random.default_rng(0)
    num = 400
    amplitude = np.exp(rng.normal(SCALE.log_mean, SCALE.log_sd, num))
    offset = SCALE.constant + SCALE.slope * amplitude + SCALE.scatter * amplitude * rng.normal(size=num)
    shape = standardised(rng.normal(size=(num, 1, 64, 64)))
    assert np.abs(shape.mean(axis=(1, 2, 3))).max() < 1e-5
    np.testing.assert_allclose(shape.std(axis=(1, 2, 3)), 1.0, atol=1e-5)
    maps = (offset[:, None, None, None] + amplitude[:, None, None, None] * shape).astype(np.float32)
    found = fit_window_scale(Maps(maps, maps, (False, False), 0.0, 1.0))
    np.testing.assert_allclose(found, SCALE, atol=0.08)


def test_sites_are_the_distribution_of_the_scale() -> None:
    draws = Predictive(SCALE.sample, num_samples=20_000)(jax.random.key(1))
    log = np.log(draws["amplitude"])
    assert (log.mean(), log.std()) == pytest.approx((SCALE.log_mean, SCALE.log_sd), abs=0.02)
    rest = (draws["offset"] - SCALE.constant - SCALE.slope * draws["amplitude"]) / draws["amplitude"]
    assert (rest.mean(), rest.std()) == pytest.approx((0.0, SCALE.scatter), abs=0.01)


def test_a_masked_map_of_a_prior_of_shapes(shapes: bd.DiffusionModel) -> None:
    mask, noise = np.ones((SIZE, SIZE)), np.ones((SIZE, SIZE))
    model = make_model(shapes, mask, noise, num_steps=None)
    trace = handlers.trace(handlers.seed(model, jax.random.key(2))).get_trace()
    value = {name: site["value"] for name, site in trace.items()}
    np.testing.assert_allclose(value["x"], value["offset"] + value["amplitude"] * value["shape"], rtol=1e-6)
    assert unknowns(shapes, 0.05) == ("level", "calibration", "amplitude", "offset")
    assert unknowns(shapes, 0.0) == ("level", "amplitude", "offset")
    assert set(unknowns(shapes, 0.05)) <= set(trace)
    assert unknowns(replace(shapes, card=Card({})), 0.05) == ("level", "calibration")
    assert window_scale({}) is None
    for damaged, got in (({"log_mean": 0.0}, "got log_mean"), (3.0, r"got 3\.0")):
        with pytest.raises(ValueError, match=f"must hold log_mean, log_sd, constant, slope, scatter, {got}"):
            window_scale({"window_scale": damaged})
    assert draw_field(jax.random.key(3), shapes).shape == (1, SIZE, SIZE)
    drawn = Predictive(lambda: parameter_priors(shapes, 0.05), num_samples=3)(jax.random.key(0))
    assert set(unknowns(shapes, 0.05)) <= set(drawn)


@pytest.mark.slow
def test_gibbs_tells_a_calibration_as_well_as_the_amplitudes_allow() -> None:
    """A prior of shapes of fixed norm: its posterior of the calibration is that of two factors whose product is known.

    The learned prior is the shipped one; the field is a draw of it.
    """
    prior = bd.load_pretrained("dust-shapes-64")
    scale = window_scale(prior.card.entries)
    assert scale is not None
    tight = scale._replace(log_sd=0.02)
    prior = replace(prior, card=Card({**prior.card.entries, "window_scale": tight._asdict()}))
    mask = np.ones((64, 64))
    shape = np.asarray(bd.DiffusionPrior(prior).sample(jax.random.key(4)))
    amplitude = np.exp(tight.log_mean + 0.01)
    offset = tight.constant + tight.slope * amplitude
    truth = 1.04
    noise = 0.2 * np.random.default_rng(5).normal(size=shape.shape)
    y = (truth * (offset + amplitude * shape) + noise).astype(np.float32)
    model = make_model(prior, mask, mask, num_steps=None)
    data = bd.sample(
        jax.random.key(6), model, y, algorithm=bd.GibbsDiffusion(num_diffusion_steps=8), num_samples=150,
        keep=("level", "calibration", "amplitude"), progress=False,
    )  # fmt: skip
    posterior = data["posterior"].to_dataset()
    product = np.asarray(posterior["calibration"] * posterior["amplitude"]).ravel()
    assert product.mean() == pytest.approx(truth * amplitude, rel=0.02)
    assert product.std() < 0.02 * product.mean()
    # log c = log b - log a with log a ~ N(log_mean, 0.02^2), against its own prior of standard deviation 0.05.
    precision = np.array([1 / 0.05**2, 1 / tight.log_sd**2])
    expected = precision @ [0.0, np.log(product.mean()) - tight.log_mean] / precision.sum()
    found = np.log(np.asarray(posterior["calibration"]).ravel())
    assert found.mean() == pytest.approx(expected, abs=0.012)
    assert found.std() == pytest.approx(precision.sum() ** -0.5, rel=0.25)
