"""The probability flow as a NumPyro transform and non-centred models, on fields whose maps and posteriors are known."""
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.optimize
import scipy.stats
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density

import bayesdiff as bd
from bayesdiff.diffusion.flow import NUM_NODES, spread
from bayesdiff.diffusion.noise import gaussian_log_density
from bayesdiff.distributions import FlowReparam
from bayesdiff.sampling.target import build_target
from tests.diffusion_toys import Opaque, coloured, field_mixture, filtered, pixel_mixture, red_power, twin_model
from validation.noncentred import deviations, hartley, masked_model, mode_posterior, random_mask

SIZE = 8
EVENT = (1, SIZE, SIZE)
CONTEXT = (1.2, -1.0)
MEAN = 0.3
POWER = red_power(SIZE)
TWIN = twin_model(SIZE, mean=MEAN)
KEY = jax.random.key(0)


def test_twin_is_mean_plus_square_root_of_covariance():
    @jax.jit
    def run(n):
        transform = bd.FlowTransform(TWIN, CONTEXT, num_steps=3)
        x = transform(n)
        density = bd.DiffusionPrior(TWIN, CONTEXT).as_transformed().log_prob(x)
        return x, transform.inv(x), transform.log_abs_det_jacobian(n, x), density, gaussian_log_density(x - MEAN, POWER)

    n = jax.random.normal(KEY, (5, *EVENT))
    x, back, determinant, density, truth = run(n)
    np.testing.assert_allclose(x, MEAN + filtered(n, np.sqrt(POWER)), atol=1e-5)
    np.testing.assert_allclose(back, n, atol=1e-4)
    np.testing.assert_allclose(determinant, np.full(5, 0.5 * np.log(POWER).sum()), rtol=1e-5)
    np.testing.assert_allclose(density, truth, rtol=1e-4)


def test_values_of_modes_are_the_hartley_transform_of_those_of_pixels():
    n = jax.random.normal(KEY, (5, *EVENT))
    of_modes, of_pixels = (bd.FlowTransform(TWIN, CONTEXT, basis=basis) for basis in ("modes", "pixels"))
    x = of_modes(n)
    rotated = hartley(np.asarray(n)).reshape(n.shape)
    np.testing.assert_allclose(x, of_pixels(rotated), atol=1e-5)
    np.testing.assert_allclose(of_modes.inv(x), n, atol=1e-4)
    determinants = [t.log_abs_det_jacobian(v, x) for t, v in ((of_modes, n), (of_pixels, rotated))]
    np.testing.assert_allclose(*determinants, rtol=1e-6)


def test_steps_are_dense_where_the_field_takes_shape():
    """White noise of unit power: the field of power P takes shape at s = P^(1/2), and nowhere else."""
    highest, lowest, centre = 100.0, 1e-3, 2.0
    span = jnp.linspace(jnp.log(highest), jnp.log(lowest), NUM_NODES)
    twin = bd.GaussianDenoiser(jnp.full((4, 4), centre**2))
    ends = np.exp(spread(twin, jnp.ones((4, 4)), span, 12))
    assert ends[0] == pytest.approx(highest, rel=1e-4)
    assert ends[-1] == pytest.approx(lowest, rel=1e-4)
    lengths = -np.diff(np.log(ends))
    assert np.all(lengths > 0)
    middle = np.argmin(np.abs(np.log(ends / centre)))
    assert lengths[middle] < 0.5 * np.mean(lengths)
    # Half of the steps are equal in log s: the longest is at most twice as long as then.
    assert lengths.max() < 2.0 * np.mean(lengths)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_any_reference_gives_the_same_distribution():
    """In the whitened field of a wrong Gaussian the flow has all the work to do."""
    power = red_power(4)
    wrong = bd.GaussianDenoiser(jnp.asarray(1.4 * red_power(4, -2.0)), 0.1)
    model = coloured(Opaque(bd.GaussianDenoiser(jnp.asarray(power), MEAN)), 4, bd.schedules.VPLinear(beta_max=36.0))
    transform = bd.FlowTransform(model, CONTEXT, 64, divergence="exact", reference=wrong)
    distribution = dist.TransformedDistribution(dist.Normal(0.0, 1.0).expand((1, 4, 4)).to_event(3), transform)
    x = MEAN + filtered(jax.random.normal(KEY, (3, 1, 4, 4)), np.sqrt(power))
    np.testing.assert_allclose(jax.jit(distribution.log_prob)(x), gaussian_log_density(x - MEAN, power), atol=0.03)


def quantile(p: float) -> float:
    """Quantile function of a pixel of `pixel_mixture`."""
    cumulative = lambda x: 0.35 * scipy.stats.norm.cdf(x, -1.3, 0.3) + 0.65 * scipy.stats.norm.cdf(x, 0.9, 0.5)  # noqa: E731
    return float(scipy.optimize.root_scalar(lambda x: cumulative(x) - p, bracket=(-10.0, 10.0)).root)


@pytest.mark.usefixtures("x64")
def test_nonlinear_flow_of_one_pixel_is_the_monotone_map():
    """In one dimension the flow preserves order, so it carries quantiles to quantiles."""
    n = np.linspace(-2.4, 2.4, 40).reshape(10, 1, 2, 2)
    truth = np.vectorize(quantile)(scipy.stats.norm.cdf(n))
    run = jax.jit(lambda n: [bd.FlowTransform(pixel_mixture(True), None, num_steps)(n) for num_steps in (24, 48)])
    errors = [np.abs(np.asarray(x) - truth).max() for x in run(n)]
    assert errors[0] < 0.03
    assert errors[1] < errors[0] / 3, "second order in the step"


def mixture_flow(num_steps: int, amplitude=CONTEXT[0], **settings) -> bd.FlowTransform:
    """The flow of a non-Gaussian field of 16 pixels whose denoiser mixes all of them."""
    return bd.FlowTransform(field_mixture(4), (amplitude, CONTEXT[1]), num_steps, **settings)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_determinant_is_that_of_the_map():
    n = jax.random.normal(jax.random.key(4), (3, 1, 4, 4))

    @jax.jit
    def run(n):
        jacobian = jax.vmap(jax.jacfwd(lambda u: mixture_flow(24)(u).ravel()))(n).reshape(3, 16, 16)
        exact = mixture_flow(24, divergence="exact").log_abs_det_jacobian(n, None)
        return jnp.linalg.slogdet(jacobian)[1], exact, mixture_flow(24, num_probes=256).log_abs_det_jacobian(n, None)

    truth, found, estimate = run(n)
    at_rest = 0.5 * np.log(np.asarray(field_mixture(4).twin.power)).sum()
    assert np.abs(truth - at_rest).min() > 0.2, "the flow must have something to do"
    np.testing.assert_allclose(found, truth, atol=0.03)
    np.testing.assert_allclose(estimate, found, atol=0.15)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(jnp.float64, 1e-6), pytest.param(jnp.float32, 2e-4, marks=pytest.mark.slow)]
)
def test_round_trip(precision, tolerance):
    with jax.enable_x64(precision is jnp.float64):
        n = jax.random.normal(jax.random.key(4), (3, 1, 4, 4), precision)
        back = jax.jit(lambda n: mixture_flow(12).inv(mixture_flow(12)(n)))(n)
        assert back.dtype == precision
        np.testing.assert_allclose(back, n, atol=tolerance)


@pytest.mark.slow
def test_round_trip_of_the_shipped_prior():
    transform = bd.FlowTransform(bd.load_pretrained("dust-cmb-64"), (70.0, 0.025), 24)
    x = jax.jit(lambda n: transform(n))(jax.random.normal(jax.random.key(1), (1, 64, 64)))
    again = jax.jit(lambda x: transform(transform.inv(x)))(x)
    assert float(x.std()) > 0.3
    assert float(jnp.sqrt(jnp.mean((again - x) ** 2))) < 1e-3


@pytest.mark.usefixtures("x64")
def test_gradients_by_values_and_context():
    n = jax.random.normal(jax.random.key(4), (1, 4, 4))
    direction, step = jax.random.normal(KEY, n.shape), 1e-5
    total = lambda amplitude, n: jnp.sum(jnp.sin(mixture_flow(6, amplitude)(n)))  # noqa: E731

    @jax.jit
    def run(amplitudes, values):
        return jax.vmap(jax.value_and_grad(total, argnums=(0, 1)))(amplitudes, values)

    around = jnp.stack([n, n + step * direction, n - step * direction, n, n])
    values, (by_context, by_value) = run(1.2 + step * jnp.array([0.0, 0.0, 0.0, 1.0, -1.0]), around)
    assert float(jnp.sum(by_value[0] * direction)) == pytest.approx(float(values[1] - values[2]) / (2 * step), rel=1e-5)
    assert float(by_context[0]) == pytest.approx(float(values[3] - values[4]) / (2 * step), rel=1e-5)
    assert abs(float(by_context[0])) > 1e-4


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Wide:
    """A denoiser with large activations."""

    weight: jax.Array

    def __call__(self, y, s, noise_power, context):
        hidden = jnp.tanh(y[..., None] * self.weight)
        return jnp.tanh(hidden).mean(axis=-1) + jnp.sin(hidden).mean(axis=-1)


def test_memory_of_a_gradient_is_one_evaluation_and_one_field_per_step():
    model = bd.DiffusionModel(Wide(jnp.linspace(0.1, 1.0, 256)), bd.schedules.VPLinear(), bd.WhiteNoise(), EVENT)

    def bytes_of(num_steps):
        loss = lambda n: jnp.sum(bd.FlowTransform(model, None, num_steps)(n) ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(jnp.zeros(EVENT)).compile().memory_analysis().temp_size_in_bytes

    few, many = bytes_of(4), bytes_of(40)
    field = 4 * SIZE * SIZE
    assert few > 256 * field / 2, "activations are what takes the memory"
    assert many - few < 36 * 3 * field


def test_batches_shapes_and_refusals():
    contexts = np.array([[0.6, 0.0], [1.0, -0.5]])
    transform = bd.FlowTransform(TWIN, contexts)
    assert transform.forward_shape((3, 1, *EVENT)) == (3, 2, *EVENT)
    assert (transform.domain.event_dim, transform.codomain.event_dim) == (3, 3)
    shape_of = lambda function, *shape: jax.eval_shape(function, jnp.zeros(shape)).shape  # noqa: E731
    assert shape_of(transform, 3, 1, *EVENT) == (3, 2, *EVENT)
    assert shape_of(transform.inv, 3, 1, *EVENT) == (3, 2, *EVENT)
    assert shape_of(lambda x: transform.log_abs_det_jacobian(x, x), 3, 1, *EVENT) == (3, 2)
    prior = bd.DiffusionPrior(TWIN, contexts).as_transformed()
    assert (prior.batch_shape, prior.event_shape) == ((2,), EVENT)
    assert jax.eval_shape(lambda key: prior.sample(key, (4,)), KEY).shape == (4, 2, *EVENT)
    assert shape_of(prior.log_prob, 4, 2, *EVENT) == (4, 2)
    for bad in (jnp.zeros((SIZE, SIZE)), jnp.zeros((1, SIZE, SIZE + 1))):
        with pytest.raises(ValueError, match=r"must have shape \(\.\.\., 1, 8, 8\), got"):
            transform(bad)
    with pytest.raises(ValueError, match="base distribution must have shape"):
        dist.TransformedDistribution(dist.Normal(0.0, 1.0).expand((1, SIZE, SIZE + 1)), transform)
    with pytest.raises(ValueError, match="amplitude must lie in"):
        bd.FlowTransform(TWIN, (3.0, 0.0))
    assert np.isnan(jax.jit(lambda a: bd.FlowTransform(TWIN, (a, 0.0))(jnp.zeros(EVENT)))(3.0)).all()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_inverse_iterations": 0}, "num_inverse_iterations"),
        ({"num_probes": 0}, "num_probes"),
        ({"divergence": "guess"}, "divergence"),
        ({"basis": "wavelets"}, "basis"),
    ],
)
def test_bad_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        bd.FlowTransform(TWIN, CONTEXT, **settings)


def test_pytree_equality_and_one_trace():
    transform = bd.FlowTransform(TWIN, CONTEXT, 5)
    rebuilt = jax.tree.unflatten(*reversed(jax.tree.flatten(transform)))
    assert isinstance(rebuilt, bd.FlowTransform)
    assert rebuilt.num_steps == 5
    assert rebuilt == transform
    assert transform.eq(bd.FlowTransform(TWIN, CONTEXT, 5))
    assert not transform.eq(bd.FlowTransform(TWIN, (1.3, -1.0), 5))
    assert transform != bd.FlowTransform(TWIN, CONTEXT, 6)
    assert transform != bd.FlowTransform(TWIN, CONTEXT, 5, basis="modes")
    traces = []

    @jax.jit
    def run(transform, n):
        traces.append(1)
        return transform, transform(n)

    n = jax.random.normal(KEY, EVENT)
    for amplitude in (0.7, 1.2, 1.4):
        through, x = run(bd.FlowTransform(TWIN, (amplitude, -1.0), 5), n)
        np.testing.assert_allclose(x, MEAN + filtered(n, np.sqrt(POWER)), atol=1e-5)
        assert float(through.context[0]) == pytest.approx(amplitude)
    assert len(traces) == 1
    several = jax.jit(jax.vmap(lambda t, n: t(n), in_axes=(0, None)))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), transform, bd.FlowTransform(TWIN, (0.7, 0.0), 5))
    assert several(stacked, n).shape == (2, *EVENT)


def two_fields(y=None):
    """Two latent fields and an ordinary parameter."""
    offset = numpyro.sample("offset", dist.Normal(0.0, 2.0))
    first = jnp.asarray(numpyro.sample("first", bd.DiffusionPrior(TWIN, CONTEXT)))
    second = jnp.asarray(numpyro.sample("second", bd.DiffusionPrior(TWIN, CONTEXT)))
    numpyro.deterministic("sum", first + second)
    numpyro.sample("y", dist.Normal(first + second + offset, 0.5).to_event(3), obs=y)


def test_noncentred_model_under_handlers():
    n = jax.random.normal(KEY, EVENT)
    model = handlers.seed(bd.noncentred(two_fields, sites=["first"]), KEY)
    substituted = handlers.substitute(model, {"first_base": n})
    trace = handlers.trace(substituted).get_trace(jnp.zeros(EVENT))
    assert trace["first"]["type"] == "deterministic"
    assert trace["second"]["type"] == "sample"
    transform = bd.FlowTransform(TWIN, CONTEXT, basis="modes")
    np.testing.assert_allclose(trace["first"]["value"], transform(n), atol=1e-6)
    direct = handlers.reparam(two_fields, config={"first": FlowReparam(num_steps=7)})
    same = handlers.trace(handlers.substitute(handlers.seed(direct, KEY), {"first_base": n})).get_trace()
    np.testing.assert_allclose(same["first"]["value"], trace["first"]["value"], atol=1e-6)
    # A field that is conditioned on is observed, and stays as it is.
    given = bd.noncentred(handlers.condition(two_fields, {"first": jnp.ones(EVENT)}))
    trace = handlers.trace(handlers.seed(given, KEY)).get_trace()
    assert trace["first"]["is_observed"]
    assert trace["second"]["type"] == "deterministic"
    drawn = Predictive(bd.noncentred(two_fields), num_samples=3)(KEY)
    assert {"first_base", "first", "second_base", "second", "sum", "offset", "y"} == set(drawn)
    np.testing.assert_allclose(drawn["sum"], drawn["first"] + drawn["second"], atol=1e-5)
    fixed = {name: drawn[name] for name in ("first_base", "second_base", "offset")}
    repeated = Predictive(bd.noncentred(two_fields), posterior_samples=fixed)(KEY)
    np.testing.assert_allclose(repeated["sum"], drawn["sum"], atol=1e-5)


def test_densities_of_the_centred_and_the_noncentred_model_agree():
    y = jax.random.normal(KEY, EVENT)
    n = {name: jax.random.normal(jax.random.key(i), EVENT) for i, name in enumerate(("first", "second"))}
    transform = bd.FlowTransform(TWIN, CONTEXT, basis="modes")
    x = {name: transform(value) for name, value in n.items()}
    offset = {"offset": jnp.asarray(0.3)}
    base = {f"{name}_base": value for name, value in n.items()}
    density = jax.jit(lambda model, values: log_density(model, (y,), {}, values)[0], static_argnums=0)
    centred, noncentred = density(two_fields, x | offset), density(bd.noncentred(two_fields), base | offset)
    determinants = 2 * 0.5 * np.log(POWER).sum()
    assert float(noncentred) == pytest.approx(float(centred + determinants), abs=2e-3)


def test_a_noncentred_model_takes_the_arguments_of_the_model():
    model = bd.noncentred(two_fields)
    assert inspect.signature(model) == inspect.signature(two_fields)
    assert inspect.signature(pickle.loads(pickle.dumps(model))) == inspect.signature(two_fields)


def test_plates_of_fields():
    def model(y=None):
        with numpyro.plate("patch", 3):
            x = jnp.asarray(numpyro.sample("x", bd.DiffusionPrior(TWIN, CONTEXT)))
            numpyro.sample("y", dist.Normal(x, 0.1).to_event(3), obs=y)

    trace = handlers.trace(handlers.seed(bd.noncentred(model), KEY)).get_trace()
    assert trace["x"]["value"].shape == (3, *EVENT)
    assert trace["x_base"]["fn"].log_prob(trace["x_base"]["value"]).shape == (3,)
    target = build_target(KEY, bd.noncentred(model), (np.zeros((3, *EVENT), np.float32),))
    assert target.dims["x"] == target.dims["x_base"] == ("patch", "channel", "height", "width")
    assert target.latent == ("x_base",)
    assert target.latent_shapes == {"x_base": (3, *EVENT)}
    centred = build_target(KEY, model, (np.zeros((3, *EVENT), np.float32),))
    assert centred.dims["x"] == ("patch", "channel", "height", "width")


def test_models_without_such_sites_are_refused():
    with pytest.raises(ValueError, match=r"latent DiffusionPrior sites \['third'\]; the model has first, second"):
        handlers.seed(bd.noncentred(two_fields, sites=["third"]), KEY)()
    with pytest.raises(ValueError, match="the model has none"):
        handlers.seed(bd.noncentred(lambda: numpyro.sample("x", dist.Normal(0.0, 1.0))), KEY)()
    with pytest.raises(ValueError, match="site 'offset' must be a DiffusionPrior, got Normal"):
        handlers.seed(handlers.reparam(two_fields, config={"offset": FlowReparam()}), KEY)()


def test_score_gradient_is_exact_on_the_twin():
    density = bd.ScoreGradient(noise_level=0.2, num_nodes=2)
    x = MEAN + filtered(jax.random.normal(KEY, EVENT), np.sqrt(POWER)).astype(np.float32)
    centre = np.mean(TWIN.context_bounds, axis=1)
    power = POWER + 0.2**2 * np.asarray(TWIN.noise_power(jnp.asarray(centre)))
    exact = jax.value_and_grad(lambda x: gaussian_log_density(x - MEAN, jnp.asarray(power)))
    for context in (CONTEXT, (0.8, 0.5)):
        found = jax.value_and_grad(bd.DiffusionPrior(TWIN, context, density).log_prob)(x)
        np.testing.assert_allclose(found[0], exact(x)[0], rtol=1e-4)
        np.testing.assert_allclose(found[1], exact(x)[1], rtol=2e-3, atol=1e-3)


@pytest.mark.usefixtures("x64")
def test_score_gradient_of_a_mixture():
    """Gradients are exact, differences of values as good as the quadrature."""
    model, s = pixel_mixture(True), 0.1
    prior = bd.DiffusionPrior(model, log_density=bd.ScoreGradient(s, 24))
    x = np.asarray([[[-1.2, 0.7], [1.4, -1.0]], [[0.9, 1.1], [0.4, 0.5]], [[-1.5, -1.4], [0.8, 0.1]]])[:, None]
    exact = lambda x: model.denoiser.log_density(x, s)  # noqa: E731
    offset = np.asarray(prior.log_prob(x)) - np.asarray(jax.vmap(exact)(x))
    assert np.ptp(offset) < 0.02
    found = jax.jit(jax.vmap(jax.grad(prior.log_prob)))(x)
    np.testing.assert_allclose(found, jax.vmap(jax.grad(exact))(x), rtol=1e-5, atol=1e-6)


def test_score_gradient_refuses_what_it_cannot_do():
    x = jnp.zeros(EVENT)
    with pytest.raises(ValueError, match="known number"):
        jax.jit(lambda s: bd.NoisyDiffusion(TWIN, s, CONTEXT, bd.ScoreGradient()).log_prob(x))(0.5)
    conditional = bd.DiffusionModel(
        Wide(jnp.ones(3)), bd.schedules.VPLinear(), bd.WhiteNoise(), EVENT, ("amplitude",), ((0.0, 2.0),)
    )
    with pytest.raises(ValueError, match="this prior depends on"):
        bd.DiffusionPrior(conditional, (1.0,), bd.ScoreGradient()).log_prob(x)
    with pytest.raises(ValueError, match="noise_level must lie in"):
        bd.DiffusionPrior(TWIN, CONTEXT, bd.ScoreGradient(500.0)).log_prob(x)
    for settings in ({"noise_level": 0.0}, {"num_nodes": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            bd.ScoreGradient(**settings)


def test_noncentred_nuts_finds_the_exact_posterior():
    """Masked, of unknown noise level, through NumPyro's own reparametrisation: every mode's mean and variance."""
    observed = random_mask(SIZE)
    power = red_power(SIZE, -5.0)  # so steep that its small scales tell the noise level
    twin = bd.GaussianDenoiser(jnp.asarray(power), MEAN)
    prior = bd.DiffusionPrior(bd.DiffusionModel(twin, bd.schedules.VPLinear(), bd.WhiteNoise(), EVENT))
    x = jax.jit(prior.sample)(jax.random.key(1)).reshape(-1)[np.flatnonzero(observed)]
    y = x + 0.3 * jax.random.normal(jax.random.key(2), x.shape)
    exact = mode_posterior(power, observed, np.asarray(y, dtype=np.float64), MEAN)
    model = handlers.reparam(masked_model(prior.as_transformed(), observed), config={"x": TransformReparam()})
    algorithm = bd.NUTS(num_warmup=300, dense_mass=False, max_tree_depth=6)
    data = bd.sample(jax.random.key(3), model, y, algorithm=algorithm, num_samples=1000, progress=False)
    assert not data["sample_stats"]["diverging"].any()
    posterior = data["posterior"].to_dataset()
    assert posterior["x"].dims == ("chain", "draw", "channel", "height", "width")
    modes = hartley(posterior["x"].values[:, :, 0].astype(np.float64))
    mean, variance, ess = deviations(modes, exact.mean, exact.variance)
    assert ess > 200
    assert np.abs(mean).max() < 4
    assert np.abs(variance).max() < 4
    assert np.sqrt(np.mean(mean**2)) < 1.4
    log_s = np.log(posterior["s"].values.astype(np.float64))[..., None]
    level = deviations(log_s, np.array([exact.log_s_mean]), np.array([exact.log_s_variance]))
    assert abs(level[0][0]) < 4
    assert abs(level[1][0]) < 4


def test_exact_posterior_by_brute_force():
    """The closed form that the studies rely on, against dense algebra at one noise level after another."""
    observed = random_mask(4)
    power, mean = red_power(4), 0.2
    y = np.random.default_rng(0).normal(size=int(observed.sum()))
    found = mode_posterior(power, observed, y, mean)
    fields = np.eye(16).reshape(-1, 4, 4)
    covariance = np.stack([filtered(field, power).ravel() for field in fields])
    rotate = partial(np.dot, hartley(fields).T)
    noise, moments, weights = np.exp(np.linspace(np.log(0.05), np.log(2.0), 401)), [], []
    pixels = np.flatnonzero(observed)
    for s in noise:
        total = covariance[np.ix_(pixels, pixels)] + s**2 * np.eye(len(pixels))
        gain = np.linalg.solve(total, covariance[pixels]).T
        conditional = rotate(mean + gain @ (y - mean))
        spread = np.diag(rotate(rotate(covariance - gain @ covariance[pixels]).T))
        weights.append(scipy.stats.multivariate_normal.logpdf(y, np.full(len(pixels), mean), total))
        moments.append((conditional, spread + conditional**2))
    weight = np.exp(np.array(weights) - max(weights))
    weight /= weight.sum()
    first = weight @ np.stack([m[0] for m in moments])
    second = weight @ np.stack([m[1] for m in moments])
    np.testing.assert_allclose(found.mean, first, atol=2e-3)
    np.testing.assert_allclose(found.variance, second - first**2, atol=2e-3)
    assert found.log_s_mean == pytest.approx(float(weight @ np.log(noise)), abs=5e-3)
