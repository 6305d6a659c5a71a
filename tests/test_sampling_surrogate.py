"""The corrected marginal on the analytic twin, its interpolation, and the fields of a result."""

from __future__ import annotations

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.densities import Estimate
from bayesdiff.sampling import surrogate
from bayesdiff.sampling.design import interpolate
from bayesdiff.sampling.gaussian_process import fit
from bayesdiff.sampling.surrogate import _correction
from bayesdiff.sampling.target import build_target

SIZE = 8


class Tilted:
    """The closed form plus a known, strongly non-quadratic function of the noise level: the twin gets it wrong."""

    def __call__(self, model, y, s, context):
        return bd.Exact()(model, y, s, context) + 12.0 * jnp.tanh(4.0 * (s - 1.2))

    def estimate(self, model, y, s, context):
        return Estimate(self(model, y, s, context), jnp.zeros(()))


@pytest.fixture
def twin(x64):
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE, 1 / SIZE), np.fft.fftfreq(SIZE, 1 / SIZE)))
    noise = bd.StationaryNoise({"rough": jnp.asarray(1.0 / (1.0 + k)), "white": jnp.full((SIZE, SIZE), 0.1)})
    return bd.DiffusionModel(
        bd.GaussianDenoiser(jnp.asarray(1.0 / (0.5 + k) ** 2)),
        bd.schedules.Cosine(),
        noise,
        (1, SIZE, SIZE),
        name="dust",
    )


def make_model(diffusion):
    def model(y=None):
        sigma = numpyro.sample("sigma", dist.Uniform(0.2, 3.0))
        numpyro.sample("y", bd.NoisyDiffusion(diffusion, sigma), obs=y)

    return model


@pytest.mark.slow
def test_surrogate_finds_the_posterior_of_a_density_far_from_the_twins(twin):
    y = bd.NoisyDiffusion(twin, 0.9).sample(jax.random.key(2))
    algorithm = bd.MarginalSurrogate(log_density=Tilted())
    data = bd.sample(jax.random.key(0), make_model(twin), y, algorithm=algorithm, num_samples=800, progress=False)
    assert data.attrs["surrogate_converged"] == 1
    assert data.attrs["surrogate_rms"] < 0.3
    draws = data["posterior"]["sigma"].values
    ess = float(arviz_stats.ess(draws))
    assert float(arviz_stats.rhat(draws)) < 1.02
    sigma = np.linspace(0.2, 3.0, 1401)
    context = jnp.zeros(0)
    log_density = np.array([float(Tilted()(twin, y, s, context)) for s in sigma])
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = weight @ sigma
    sd = np.sqrt(weight @ (sigma - mean) ** 2)
    untilted = np.array([float(bd.Exact()(twin, y, s, context)) for s in sigma])
    assert abs(sigma[untilted.argmax()] - mean) > 2 * sd  # the test has power: the twin alone is wrong
    # Interpolation to max_rms = 0.3 nat may move the mean by a fraction of a standard deviation.
    assert abs(draws.mean() - mean) < 0.15 * sd + 4 * sd / np.sqrt(ess)
    assert abs(draws.std() / sd - 1) < 0.15


@pytest.mark.parametrize(
    ("bounds", "unsure"),
    [({"min_bulk": 1000}, 1.0), ({"min_bulk": 1, "max_rms": 1e9}, 1e-6)],
    ids=["few points", "unsure of itself"],
)
def test_a_surrogate_that_is_not_accepted_says_so(twin, monkeypatch, bounds, unsure):
    monkeypatch.setattr(surrogate, "_UNSURE", unsure)
    y = bd.NoisyDiffusion(twin, 0.9).sample(jax.random.key(2))
    algorithm = bd.MarginalSurrogate(log_density=Tilted(), num_design=3, max_rounds=1, **bounds)
    data = bd.sample(jax.random.key(0), make_model(twin), y, algorithm=algorithm, num_samples=50, progress=False)
    assert data.attrs["surrogate_converged"] == 0


def test_the_density_is_lowered_where_the_process_is_not_sure():
    points = np.linspace(-1.0, 1.0, 9)[:, None]
    interpolant = fit(points, np.sin(2.0 * points[:, 0]), np.zeros(1), np.eye(1), 9).interpolant
    near, away = jnp.array([0.25]), jnp.array([40.0])
    deviation = interpolant(away)[1]
    everywhere, known = jnp.asarray(1e6), deviation - 2.0
    assert float(_correction(interpolant, near, known)) == float(_correction(interpolant, near, everywhere))
    lowered = _correction(interpolant, away, everywhere) - _correction(interpolant, away, known)
    np.testing.assert_allclose(float(lowered), 6.0, rtol=1e-3)  # three times the two nat beyond


def test_neither_far_points_nor_chains_in_a_corner_spoil_the_fit():
    rng = np.random.default_rng(1)

    def height(x):
        return -0.5 * np.sum((x @ np.array([[2.0, 1.0], [0.0, 4.0]])) ** 2, axis=1) + 0.4 * np.sin(2.0 * x[:, 0])

    far = np.array([0.0, 14.0]) + rng.normal(size=(24, 2)) * np.array([1.0, 0.5])
    near = rng.normal(size=(30, 2)) * np.array([0.9, 0.5])
    points = np.concatenate([far, near])
    draws = np.array([1.5, -0.4]) + rng.normal(size=(600, 2)) * np.array([0.01, 0.002])  # where a first guess led
    process = interpolate(points, draws, height(points), height(points), 54).interpolant
    new = rng.normal(size=(200, 2)) * np.array([0.45, 0.25])
    mean, deviation = (np.asarray(x) for x in jax.vmap(process)(jnp.asarray(new)))
    error = mean - height(new)
    assert height(far).max() < -1000
    assert np.sqrt(np.mean((error - error.mean()) ** 2)) < 0.02  # 0.2 if every point is followed as closely
    assert np.mean(np.abs(error) < 3.0 * np.hypot(deviation, 0.05)) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("min_bulk", "far"), [(24, 1.0), (1000, 6.0)], ids=["accepted", "not accepted"])
def test_only_an_accepted_surrogate_keeps_out_of_what_it_does_not_know(twin, min_bulk, far):
    y = bd.NoisyDiffusion(twin, 0.9).sample(jax.random.key(2))
    target = build_target(jax.random.key(0), make_model(twin), (y,))
    algorithm = bd.MarginalSurrogate(log_density=Tilted(), min_bulk=min_bulk, max_rounds=2 if min_bulk > 24 else 8)
    prepared = algorithm.prepare(jax.random.key(1), target, 4, False)
    assert prepared.attributes["surrogate_converged"] == (min_bulk == 24)
    assert float(prepared.target.density_data[-1]) == far
    # What the test of an accepted surrogate asked for is in it too.
    joined = prepared.attributes["surrogate_rounds"] - (min_bulk > 24)
    assert int(prepared.target.density_data[1].present.sum()) == 24 + 24 * joined


def test_interpolation_predicts_a_smooth_function_with_honest_errors():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 2))

    def function(x):
        return 3.0 * x[:, 0] - 2.0 * x[:, 1] ** 2 + np.sin(1.5 * x[:, 0])

    result = fit(points, function(points), np.zeros(2), np.eye(2), size=80)
    fresh = 0.7 * rng.normal(size=(40, 2))
    mean, deviation = (np.asarray(x) for x in jax.vmap(result.interpolant)(jnp.asarray(fresh)))
    error = mean - function(fresh)
    assert np.sqrt(np.mean(error**2)) < 0.1
    assert np.mean(np.abs(error) < 3 * np.hypot(deviation, 0.02)) > 0.9
    far = np.asarray(result.interpolant(jnp.array([8.0, 8.0]))[1])
    assert far > 5 * deviation.max()


def test_fields_are_drawn_for_kept_draws_and_sum_to_the_observation(twin):
    y = bd.NoisyDiffusion(twin, 0.9).sample(jax.random.key(2))
    model = make_model(twin)
    data = bd.sample(jax.random.key(0), model, y, algorithm=bd.NUTS(num_warmup=100), num_samples=60, progress=False)
    with_fields = bd.draw_fields(jax.random.key(1), model, y, data, num_draws=40, progress=False)
    fields = with_fields["fields"].to_dataset()
    assert set(fields.data_vars) == {"dust", "rough", "white"}
    assert fields["dust"].dims == ("chain", "draw", "channel", "height", "width")
    assert fields.sizes["draw"] == 10
    assert set(fields["draw"].values) <= set(data["posterior"]["draw"].values)
    total = fields["dust"] + fields["rough"] + fields["white"]
    np.testing.assert_allclose(total.values, np.broadcast_to(y, total.shape), atol=1e-5)
    assert "fields" not in data


def test_fields_need_a_result_with_the_model_s_sites(twin):
    y = jnp.zeros((1, SIZE, SIZE))
    with pytest.raises(ValueError, match="draw_fields needs the result of sample"):
        bd.draw_fields(jax.random.key(1), make_model(twin), y)


def test_too_many_parameters_are_refused(twin):
    def model(y=None):
        many = numpyro.sample("many", dist.Normal(jnp.zeros(9), 1.0).to_event(1))
        numpyro.sample("y", bd.NoisyDiffusion(twin, jnp.exp(many[0])), obs=y)

    with pytest.raises(ValueError, match="at most 8 dimensions, the model has 9"):
        bd.sample(
            jax.random.key(0), model, jnp.zeros((1, SIZE, SIZE)), algorithm=bd.MarginalSurrogate(), progress=False
        )
