"""Noise schedules against their textbook definitions, and the closed-form diffusion time against its equation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from bayesdiff.diffusion.schedules import EDM, Cosine, LearnedLinear, Sigmoid, VPLinear, noise_level, noise_level_range

SCHEDULES = [
    VPLinear(),
    VPLinear(0.2, 12.0),
    Cosine(),
    Sigmoid(),
    Sigmoid(0.0, 3.0, 0.7),
    EDM(0.002, 80.0),
    LearnedLinear(),
]
VARIANCE_PRESERVING = [schedule for schedule in SCHEDULES if not isinstance(schedule, EDM)]
TIMES = np.linspace(0.002, 1.0, 200)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


@every_schedule
@pytest.mark.usefixtures("x64")
def test_log_snr_is_that_of_alpha_and_sigma_and_falls(schedule):
    alpha, sigma, log_snr = (np.asarray(f(TIMES)) for f in (schedule.alpha, schedule.sigma, schedule.log_snr))
    np.testing.assert_allclose(log_snr, 2.0 * np.log(alpha / sigma), rtol=1e-9, atol=1e-9)
    assert (np.diff(log_snr) < 0).all()


@pytest.mark.parametrize("schedule", VARIANCE_PRESERVING, ids=repr)
@pytest.mark.usefixtures("x64")
def test_variance_is_preserved(schedule):
    np.testing.assert_allclose(schedule.alpha(TIMES) ** 2 + schedule.sigma(TIMES) ** 2, 1.0, rtol=1e-12)


@every_schedule
@pytest.mark.usefixtures("x64")
def test_diffusion_time_solves_its_equation(schedule):
    low, high = noise_level_range(schedule)
    s = np.geomspace(max(low, 1e-4), high, 300)
    t = schedule.time_of_noise_level(s)
    assert float(t.min()) > -1e-9
    assert float(t.max()) < 1.0 + 1e-9
    np.testing.assert_allclose(schedule.sigma(t) / schedule.alpha(t), s, rtol=1e-7)
    np.testing.assert_allclose(schedule.time_of_noise_level(noise_level(schedule, TIMES)), TIMES, rtol=1e-7)


@every_schedule
def test_diffusion_time_in_float32(schedule):
    low, high = noise_level_range(schedule)
    s = np.geomspace(max(low * 1.01, 1e-2), min(high * 0.99, 20.0), 50).astype(
        np.float32
    )  # near t = 1 float32 times are coarse
    np.testing.assert_allclose(noise_level(schedule, schedule.time_of_noise_level(s)), s, rtol=5e-4)


@every_schedule
@pytest.mark.usefixtures("x64")
def test_gradient_of_diffusion_time_is_that_of_the_inverse_function(schedule):
    t = np.array([0.03, 0.2, 0.5, 0.9])
    s = noise_level(schedule, t)
    gradient = jax.vmap(jax.grad(schedule.time_of_noise_level))(s)
    step = 1e-6
    slope = (noise_level(schedule, t + step) - noise_level(schedule, t - step)) / (2 * step)
    np.testing.assert_allclose(gradient, 1.0 / slope, rtol=1e-5)
    low, high = noise_level_range(schedule)
    ends = jax.vmap(jax.grad(schedule.time_of_noise_level))(jnp.array([low, high]))
    assert np.isfinite(ends).all()


@every_schedule
def test_noise_level_outside_is_refused_by_name_and_range(schedule):
    low, high = noise_level_range(schedule)
    for outside in (high * 1.01, low * 0.99 - 1e-3, np.nan):
        with pytest.raises(
            ValueError, match=r"noise level must lie in \[.*\] \(the range of " + type(schedule).__name__
        ):
            schedule.time_of_noise_level(outside)
    traced = jax.jit(schedule.time_of_noise_level)
    assert np.isnan(traced(high * 1.01))
    assert np.isfinite(traced(high * 0.99))


@pytest.mark.usefixtures("x64")
def test_refusal_and_trace_agree_on_the_edge_of_a_wide_schedule():
    schedule = EDM(0.002, 80.0)
    with pytest.raises(ValueError, match="noise level"):
        schedule.time_of_noise_level(0.00195)
    assert np.isnan(jax.jit(schedule.time_of_noise_level)(0.00195))


@pytest.mark.usefixtures("x64")
def test_vp_linear_integrates_beta():
    schedule = VPLinear(0.1, 20.0)
    for t in (0.05, 0.4, 1.0):
        integral, _ = quad(lambda u: 0.1 + u * 19.9, 0.0, t)
        assert float(schedule.alpha(t)) == pytest.approx(np.exp(-0.5 * integral), rel=1e-10)
    assert noise_level_range(schedule)[0] == 0.0
    assert noise_level_range(schedule)[1] == pytest.approx(np.sqrt(np.expm1(10.05)), rel=1e-10)


@pytest.mark.usefixtures("x64")
def test_cosine_is_the_cosine_between_its_cuts():
    schedule = Cosine(log_snr_max=12.0)
    assert noise_level_range(schedule) == pytest.approx((np.exp(-6.0), np.exp(6.0)), rel=1e-9)
    np.testing.assert_allclose(Cosine(log_snr_max=60.0).alpha(TIMES), np.cos(0.5 * np.pi * TIMES), atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_sigmoid_is_the_published_function():
    def published(t, start=-3.0, end=3.0, tau=1.0):  # Jabri et al. 2022, algorithm 2 (clipped there at 1e-9)
        def sigmoid(x):
            return 1.0 / (1.0 + np.exp(-x))

        value = sigmoid((t * (end - start) + start) / tau)
        return (sigmoid(end / tau) - value) / (sigmoid(end / tau) - sigmoid(start / tau))

    np.testing.assert_allclose(Sigmoid(clip=1e-12).alpha(TIMES) ** 2, published(TIMES), atol=1e-11)


def test_sigmoid_keeps_small_noise_levels_in_float32():
    schedule = Sigmoid()
    t = np.array([0.0, 1e-5, 1e-4], dtype=np.float32)
    with jax.enable_x64(True):
        exact = np.asarray(noise_level(schedule, t.astype(np.float64)))
    np.testing.assert_allclose(noise_level(schedule, t), exact, rtol=3e-3)


@pytest.mark.usefixtures("x64")
def test_edm_is_the_published_ladder():
    steps = np.arange(18)
    ladder = (80.0 ** (1 / 7) + steps / 17 * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7  # Karras et al. 2022, eq. 5
    np.testing.assert_allclose(EDM(0.002, 80.0).sigma(1.0 - steps / 17), ladder, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_learned_linear_is_linear_in_log_snr():
    schedule = LearnedLinear(-13.3, 13.3)
    np.testing.assert_allclose(schedule.log_snr(TIMES), 13.3 - 26.6 * TIMES, atol=1e-12)
