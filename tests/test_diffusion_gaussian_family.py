"""Gaussian fields whose power depends on parameters: fitted, exact, and the twin of a conditional prior."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.densities import Twin
from bayesdiff.diffusion.gaussian_family import fit_gaussian_family
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import initialise
from bayesdiff.windows import LabelledFields
from tests.diffusion_toys import filtered, wavenumber

pytestmark = pytest.mark.usefixtures("x64")

SIZE = 16
LOW, HIGH = (-0.7, 1.5), (0.7, 3.5)
NAMES, BOUNDS = ("log_A", "n"), tuple(zip(LOW, HIGH, strict=True))


def true_power(log_amplitude: float, index: float) -> np.ndarray:
    """A k^-n, the mode k = 0 as the fundamental."""
    return np.exp(log_amplitude) * np.maximum(wavenumber(SIZE), 1.0) ** -index


def power_law_fields(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Fields (num, 1, SIZE, SIZE) of mean log_A / 4 and their contexts (num, 2)."""
    rng = np.random.default_rng(seed)
    contexts = rng.uniform(LOW, HIGH, (num, 2))
    white = rng.normal(size=(num, 1, SIZE, SIZE))
    fields = [c[0] / 4 + filtered(w, np.sqrt(true_power(*c))) for c, w in zip(contexts, white, strict=True)]
    return np.stack(fields), contexts


@pytest.fixture(scope="module")
def family():
    with jax.enable_x64(True):
        return fit_gaussian_family(*power_law_fields(3000), LOW, HIGH, degree=2, num_bands=8)


def conditional(denoiser, name: str = "x") -> bd.DiffusionModel:
    return bd.DiffusionModel(
        denoiser, bd.schedules.Cosine(12.0), bd.WhiteNoise(), (1, SIZE, SIZE), NAMES, BOUNDS, name=name
    )


def test_fit_recovers_power_and_mean(family):
    for context in ((-0.5, 2.0), (0.0, 2.5), (0.6, 3.3)):
        gaussian = family.at(jnp.array(context))
        ratio = np.asarray(gaussian.power) / true_power(*context)
        # 3,000 fields of 256 modes, 60 coefficients: one to three percent; k = 0 is a single mode of each field.
        assert np.abs(ratio.ravel()[1:] - 1.0).max() < 0.06
        assert abs(ratio[0, 0] - 1.0) < 0.2
        assert float(gaussian.mean) == pytest.approx(context[0] / 4, abs=0.08)


def test_a_small_field_has_as_many_bands_as_its_modes_tell_apart():
    fields, contexts = power_law_fields(600)
    family = fit_gaussian_family(fields, contexts, LOW, HIGH, degree=1, num_bands=40)
    assert 8 < len(family.log_power) < 16
    ratio = np.asarray(family.at(jnp.array([0.0, 2.5])).power) / true_power(0.0, 2.5)
    assert np.abs(ratio.ravel()[1:] - 1.0).max() < 0.2


def log_prob(model, s, context, y, estimator=None) -> float:
    return float(jax.jit(lambda y: bd.NoisyDiffusion(model, s, context, estimator).log_prob(y))(y))


def test_family_is_a_prior_with_closed_forms(family):
    model = conditional(family)
    assert model.prior_depends_on_context
    context, white = jnp.array([0.2, 2.4]), jnp.ones((SIZE, SIZE))
    gaussian = family.at(context)
    x = bd.DiffusionPrior(model, context).sample(jax.random.key(0))
    closed = float(gaussian.log_density(x, jnp.asarray(0.0), white))
    assert float(bd.DiffusionPrior(model, context).log_prob(x)) == pytest.approx(closed)
    y = bd.NoisyDiffusion(model, 0.5, context).sample(jax.random.key(1))
    closed = float(gaussian.log_density(y, jnp.asarray(0.5), white))
    for estimator in (bd.Exact(), bd.Elbo(num_times=2, num_noise=1), bd.ProbabilityFlow(num_steps=2, num_probes=1)):
        assert log_prob(model, 0.5, context, y, estimator) == pytest.approx(closed, abs=1e-8)
    observed = jnp.broadcast_to(y, (2000, *y.shape))
    draw = jax.jit(lambda key, y: bd.NoisyDiffusion(model, 0.5, context).sample_latent(key, y, num_steps=4))
    draws = np.asarray(draw(jax.random.key(2), observed))
    mean = np.asarray(gaussian(y, jnp.asarray(0.5), white, context))
    assert np.abs((draws.mean(axis=0) - mean) / draws.std(axis=0) * np.sqrt(2000)).max() < 4.5


def test_gradients_with_respect_to_the_context_are_those_of_the_closed_form(family):
    model = conditional(family)
    x = bd.DiffusionPrior(model, (0.2, 2.4)).sample(jax.random.key(0))
    value = jax.jit(lambda c: bd.DiffusionPrior(model, c).log_prob(x))
    context = jnp.array([0.1, 2.5])
    slope = jax.jit(jax.grad(value))(context)
    for i in range(2):
        ends = [float(value(context.at[i].add(d))) for d in (-1e-5, 1e-5)]
        assert float(slope[i]) == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-5)


def test_an_untrained_network_about_the_family_is_the_family(family):
    config = UNetConfig(3, 1, channels=(8,), blocks=(1,), embedding=16, attention=False, patch=2)
    model = conditional(initialise(0, family, config, LOW, HIGH))
    assert model.prior_depends_on_context
    context = jnp.array([0.2, 2.4])
    y = bd.NoisyDiffusion(conditional(family), 0.5, context).sample(jax.random.key(1))
    exact = log_prob(conditional(family), 0.5, context, y)
    assert log_prob(model, 0.5, context, y, bd.Elbo(num_times=2, num_noise=1)) == pytest.approx(exact, abs=0.02)
    assert log_prob(model, 0.5, context, y, Twin(jnp.zeros(1))) == pytest.approx(exact, abs=0.02)


def test_labelled_fields_keep_their_context(family):
    fields, contexts = power_law_fields(8)
    labelled = LabelledFields(jnp.asarray(fields), jnp.asarray(contexts))
    choose = jax.jit(labelled.pool(jax.random.key(0), 4).choose)
    for seed in range(10):
        x, importance, context = choose(jax.random.key(seed))
        index = int(np.argmin(np.abs(contexts - np.asarray(context)).sum(axis=1)))
        np.testing.assert_allclose(np.sort(np.asarray(x).ravel()), np.sort(fields[index].ravel()), rtol=1e-5)
        assert float(importance) == 1.0


def test_family_survives_storage(family, tmp_path):
    config = UNetConfig(3, 1, channels=(8, 16), blocks=(1, 1), embedding=16, attention=False)
    for denoiser in (family, initialise(0, family, config, LOW, HIGH)):
        model = conditional(denoiser)
        model.save(tmp_path / type(denoiser).__name__)
        loaded = bd.load_model(tmp_path / type(denoiser).__name__)
        assert loaded.fingerprint() == model.fingerprint()
        assert loaded.prior_depends_on_context


@pytest.mark.slow
def test_surrogate_samples_an_observed_prior(family):
    model = conditional(family)

    def program(x=None):
        log_amplitude = numpyro.sample("log_A", dist.Uniform(*BOUNDS[0]))
        index = numpyro.sample("n", dist.Uniform(*BOUNDS[1]))
        with numpyro.plate("field", 2):
            numpyro.sample("x", bd.DiffusionPrior(model, (log_amplitude, index)), obs=x)

    x = bd.DiffusionPrior(model, (0.2, 2.4)).sample(jax.random.key(0), (2,))
    algorithm = bd.MarginalSurrogate(bd.Exact())
    surrogate = bd.sample(jax.random.key(1), program, x, algorithm=algorithm, num_samples=500, progress=False)
    assert surrogate.attrs["surrogate_converged"] == 1
    grid = bd.sample(jax.random.key(2), program, x, algorithm=bd.Grid({"log_A": 40, "n": 40}), progress=False)
    for name in NAMES:
        a, b = (np.asarray(data["posterior"][name]).ravel() for data in (surrogate, grid))
        assert abs(a.mean() - b.mean()) < 0.15 * b.std()
        assert abs(a.std() / b.std() - 1.0) < 0.15


def test_fit_refuses_what_it_cannot_fit():
    fields, contexts = power_law_fields(20)
    with pytest.raises(ValueError, match=r"must have shape \(N, 1, H, W\), got \(20, 2, 16, 16\)"):
        fit_gaussian_family(np.concatenate([fields, fields], axis=1), contexts, LOW, HIGH)
    with pytest.raises(ValueError, match=r"contexts must have shape \(20, 2\), got \(19, 2\)"):
        fit_gaussian_family(fields, contexts[:-1], LOW, HIGH)
    with pytest.raises(ValueError, match="must lie between"):
        fit_gaussian_family(fields, contexts + 1.0, LOW, HIGH)
    with pytest.raises(ValueError, match="15 terms cannot be fitted to 20 fields"):
        fit_gaussian_family(fields, contexts, LOW, HIGH, degree=4)


def test_a_family_is_an_argument_of_compiled_functions() -> None:
    family = bd.GaussianFamily(jnp.zeros((4, 3)), jnp.zeros(3), jnp.zeros(2), jnp.ones(2), (8, 8), 1)
    power = jax.jit(lambda given, context: given.at(context).power)(family, jnp.array([0.2, 0.7]))
    np.testing.assert_allclose(power, family.at(jnp.array([0.2, 0.7])).power)
