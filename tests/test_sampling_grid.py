"""The grid against closed forms: evidence, marginals, regions and the law of the draws; what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpy.polynomial.legendre import leggauss
from scipy import special, stats

import bayesdiff as bd
from bayesdiff.reporting import verdict
from bayesdiff.sampling.target import build_target
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.linear_gaussian import make_twin, power_law

KEY = jax.random.key(11)
MEAN, SD, CORRELATION = np.array([0.4, 0.55]), 0.04, 0.9
SIZE = 16


def on_unit_box(num, log_density):
    """Model of ``num`` uniform sites x0, x1, ... on [0, 1] with a factor: the evidence is the factor's integral."""

    def model():
        x = jnp.stack([numpyro.sample(f"x{i}", dist.Uniform(0.0, 1.0)) for i in range(num)])
        numpyro.factor("data", log_density(x))

    return model


def gaussian(mean, sd):
    return lambda x: dist.Normal(jnp.asarray(mean), sd).log_prob(x).sum()


def run(model, algorithm, *args, num_samples=1000, **kwargs):
    with jax.enable_x64(True):
        return bd.sample(KEY, model, *args, algorithm=algorithm, num_samples=num_samples, progress=False, **kwargs)


def draws(data, name):
    return data["posterior"][name].values.ravel()


def worst_cdf(data, name, cdf):
    own = data["marginals"][f"cdf_{name}"]
    return np.abs(own.values - cdf(own[name].values)).max()


@pytest.fixture(scope="module")
def correlated():
    """A Gaussian of correlation 0.9 far from the edges, on an adaptive grid."""
    covariance = SD**2 * np.array([[1.0, CORRELATION], [CORRELATION, 1.0]])
    density = dist.MultivariateNormal(jnp.asarray(MEAN), jnp.asarray(covariance))
    return run(on_unit_box(2, density.log_prob), bd.Grid({"x0": 30, "x1": 40}))


def test_evidence_and_marginals_of_a_correlated_gaussian(correlated):
    assert abs(correlated.attrs["log_evidence"]) < 2e-4
    assert correlated.attrs["log_evidence_error"] < 2e-3
    assert correlated.attrs["grid_converged"] == 1
    for i, mean in enumerate(MEAN):
        assert worst_cdf(correlated, f"x{i}", stats.norm(mean, SD).cdf) < 1e-3
        regions = correlated["marginals"][f"regions_x{i}"].values
        assert regions.shape == (2, 1, 2)
        for probability, region in zip((0.68, 0.95), regions, strict=True):
            np.testing.assert_allclose(region[0], stats.norm(mean, SD).interval(probability), atol=0.02 * SD)


def test_the_density_on_the_points_is_the_models(correlated):
    grid = correlated["grid"].to_dataset()
    assert dict(grid.sizes) == {"x0": 30, "x1": 40}
    mesh = np.stack(np.meshgrid(grid.x0, grid.x1, indexing="ij"), axis=-1)
    exact = stats.multivariate_normal(MEAN, SD**2 * np.array([[1.0, CORRELATION], [CORRELATION, 1.0]])).logpdf(mesh)
    held = exact > exact.max() - 20.0
    np.testing.assert_allclose(grid.log_density.values[held], exact[held], atol=1e-4)


def test_draws_follow_the_law(correlated):
    x0, x1 = (draws(correlated, name) for name in ("x0", "x1"))
    assert len(x0) == 4000
    conditional = MEAN[1] + CORRELATION * (x0 - MEAN[0])
    assert stats.kstest(x0, stats.norm(MEAN[0], SD).cdf).pvalue > 0.01
    residual = (x1 - conditional) / (SD * np.sqrt(1 - CORRELATION**2))
    assert stats.kstest(residual, "norm").pvalue > 0.01
    assert abs(np.corrcoef(x0, residual)[0, 1]) < 4 / np.sqrt(len(x0))
    exact = stats.multivariate_normal(MEAN, SD**2 * np.array([[1.0, CORRELATION], [CORRELATION, 1.0]]))
    height = correlated["sample_stats"]["lp"].values.ravel()
    np.testing.assert_allclose(height, exact.logpdf(np.stack([x0, x1], axis=1)), atol=1e-4)


def test_draws_are_independent_and_pass_the_verdict(correlated):
    assert correlated["posterior"]["x0"].dims == ("chain", "draw")
    assert verdict(correlated).converged


def test_contours_of_a_gaussian_are_the_same_by_delta_chi2_and_by_density(correlated):
    pair = bd.grid_contours(correlated, "x1", "x0")
    assert pair["delta_chi2"].dims == ("x1", "x0")
    np.testing.assert_allclose(pair["delta_chi2_level"], [2.30, 6.18], atol=0.01)
    np.testing.assert_allclose(pair["highest_density_level"], pair["delta_chi2_level"], rtol=0.05)
    single = bd.grid_contours(correlated, "x0")
    np.testing.assert_allclose(single["delta_chi2_level"], [1.00, 4.00], atol=0.01)
    np.testing.assert_allclose(single["highest_density_level"], single["delta_chi2_level"], rtol=0.02)
    profile = bd.grid_contours(correlated, "x0", profile=True)
    for region in (single["delta_chi2_region"].values, profile["delta_chi2_region"].values):
        for sigmas, interval in zip((1, 2), region[:, 0], strict=True):
            np.testing.assert_allclose(interval, MEAN[0] + sigmas * SD * np.array([-1, 1]), atol=0.06 * SD)


def test_contours_refuse_what_is_not_there(correlated):
    with pytest.raises(ValueError, match="one or two of"):
        bd.grid_contours(correlated, "x0", "y")
    with pytest.raises(ValueError, match="needs a result of Grid"):
        bd.grid_contours(xr.DataTree.from_dict({"posterior": correlated["posterior"].to_dataset()}), "x0")


def test_the_density_is_that_of_the_sites_without_a_jacobian():
    counts = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0])

    def model(y):
        rate = numpyro.sample("rate", dist.Beta(3.0, 2.0))
        numpyro.deterministic("odds", rate / (1.0 - rate))
        numpyro.sample("y", dist.Bernoulli(rate).expand((7,)).to_event(1), obs=y)

    data = run(model, bd.Grid({"rate": 25}), counts)
    ones = counts.sum()
    exact = special.betaln(3 + ones, 2 + 7 - ones) - special.betaln(3, 2)
    assert abs(data.attrs["log_evidence"] - exact) < 1e-3
    law = stats.beta(3 + ones, 2 + 7 - ones)
    assert worst_cdf(data, "rate", law.cdf) < 2e-3
    rate = draws(data, "rate")
    assert stats.kstest(rate, law.cdf).pvalue > 0.01
    np.testing.assert_allclose(draws(data, "odds"), rate / (1 - rate))


@pytest.mark.parametrize("adaptive", [True, False])
def test_mass_at_the_edge_of_the_prior(adaptive):
    model = on_unit_box(2, lambda x: -30.0 * x[0] + 4.0 * x[1])
    data = run(model, bd.Grid({"x0": 41, "x1": 7}, adaptive=adaptive), num_samples=500)
    exact = np.log((1 - np.exp(-30)) / 30) + np.log((np.exp(4) - 1) / 4)
    assert abs(data.attrs["log_evidence"] - exact) < 2e-3
    assert worst_cdf(data, "x0", stats.expon(scale=1 / 30).cdf) < 2e-3
    region = data["marginals"]["regions_x0"].values[0, 0]
    np.testing.assert_allclose(region, [0.0, -np.log(0.32) / 30], atol=1e-3)
    assert stats.kstest(draws(data, "x0"), stats.expon(scale=1 / 30).cdf).pvalue > 0.01


def test_a_narrow_peak_off_the_centre_is_found_with_few_evaluations():
    mean, sd = np.array([0.213, 0.871, 0.634]), np.array([0.004, 0.01, 0.02])

    def log_density(x):
        # Student's t: not a polynomial in any box, with tails that hold mass.
        return dist.StudentT(8.0, jnp.asarray(mean), jnp.asarray(sd)).log_prob(x).sum()

    data = run(on_unit_box(3, log_density), bd.Grid({"x0": 50, "x1": 50, "x2": 30}))
    assert data.attrs["num_evaluations"] < 15_000
    assert abs(data.attrs["log_evidence"]) < 0.02
    for i in range(3):
        assert worst_cdf(data, f"x{i}", stats.t(8, mean[i], sd[i]).cdf) < 0.01
        assert stats.kstest(draws(data, f"x{i}"), stats.t(8, mean[i], sd[i]).cdf).pvalue > 0.01


def test_no_mode_is_lost():
    centres, sds, parts = np.array([[0.2, 0.3, 0.25], [0.8, 0.7, 0.7]]), np.array([0.03, 0.015]), np.array([0.3, 0.7])

    def log_density(x):
        modes = dist.Normal(jnp.asarray(centres), jnp.asarray(sds)[:, None]).log_prob(x).sum(axis=1)
        return jax.scipy.special.logsumexp(modes + jnp.log(jnp.asarray(parts)))

    data = run(on_unit_box(3, log_density), bd.Grid({"x0": 50, "x1": 50, "x2": 30}))
    assert data.attrs["num_evaluations"] < 7500
    assert abs(data.attrs["log_evidence"]) < 0.02

    def law(x):
        return parts @ stats.norm(centres[:, :1], sds[:, None]).cdf(x)

    assert worst_cdf(data, "x0", law) < 0.01
    first = draws(data, "x0") < 0.5
    assert abs(first.mean() - parts[0]) < 4 * np.sqrt(0.21 / len(first))
    assert stats.kstest(draws(data, "x1")[first], stats.norm(0.3, 0.03).cdf).pvalue > 0.01
    regions = data["marginals"]["regions_x2"].values[1]
    assert regions.shape == (2, 2)
    assert regions[0, 0] < 0.25 < regions[0, 1] < regions[1, 0] < 0.7 < regions[1, 1]


def test_four_dimensions():
    mean, sd = np.array([0.3, 0.5, 0.6, 0.45]), 0.08
    names = [f"x{i}" for i in range(4)]
    data = run(on_unit_box(4, gaussian(mean, sd)), bd.Grid(dict.fromkeys(names, 8), first_cells=1), num_samples=250)
    inside = np.prod(stats.norm(mean, sd).cdf(1.0) - stats.norm(mean, sd).cdf(0.0))
    assert abs(data.attrs["log_evidence"] - np.log(inside)) < 2e-3
    assert data["grid"]["density"].shape == (8, 8, 8, 8)
    for i, name in enumerate(names):
        assert stats.kstest(draws(data, name), stats.norm(mean[i], sd).cdf).pvalue > 0.01


def test_bounds_and_points_of_an_unbounded_site():
    def model():
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
        numpyro.factor("data", -scale + 0.0 * shift)

    points = np.linspace(-6.0, 6.0, 33)
    data = run(model, bd.Grid({"scale": (0.0, 6.0, 40), "shift": points}), num_samples=10)
    # Integral of 2 N(x) exp(-x) over x > 0.
    assert abs(data.attrs["log_evidence"] - np.log(2 * np.exp(0.5) * stats.norm.sf(1.0))) < 1e-3
    np.testing.assert_array_equal(data["grid"]["shift"].values, points)


def test_a_plain_grid_evaluates_its_points_and_no_more():
    data = run(
        on_unit_box(2, gaussian([0.4, 0.6], 0.1)), bd.Grid({"x0": 21, "x1": 30}, adaptive=False), num_samples=500
    )
    assert data.attrs["num_evaluations"] == 21 * 30
    np.testing.assert_allclose(data["grid"]["x1"].values, np.linspace(0, 1, 30))
    inside = np.prod(stats.norm([0.4, 0.6], 0.1).cdf(1.0) - stats.norm([0.4, 0.6], 0.1).cdf(0.0))
    assert abs(data.attrs["log_evidence"] - np.log(inside)) < 1e-3
    assert stats.kstest(draws(data, "x1"), stats.norm(0.6, 0.1).cdf).pvalue > 0.01


def closed_form(y, dust):
    """Log evidence, means and deviations on the twin by N(y; 0, P + sigma^2 S) at Gauss-Legendre nodes, in NumPy."""
    nodes, weights = zip(*(leggauss(num) for num in (14, 14, 80)), strict=True)
    bounds = list(PRIOR_BOUNDS.values())
    axes = [low + (high - low) * 0.5 * (x + 1.0) for x, (low, high) in zip(nodes, bounds, strict=True)]
    contexts = np.stack(np.meshgrid(axes[0], axes[1], indexing="ij"), axis=-1).reshape(-1, 2)
    spectra = np.asarray(jax.vmap(dust.noise_power)(jnp.asarray(contexts))).reshape(len(contexts), 1, -1)
    total = power_law(SIZE).ravel() + axes[2][:, None] ** 2 * spectra
    modes = np.abs(np.fft.fft2(y[0], norm="ortho")).ravel() ** 2
    height = -0.5 * (modes / total + np.log(2 * np.pi * total)).sum(axis=-1).reshape(14, 14, 80)
    mass = np.einsum("ijk,i,j,k->ijk", np.exp(height - height.max()), *(0.5 * w for w in weights))
    evidence = np.log(mass.sum()) + height.max()
    mass /= mass.sum()
    sums = [mass.sum(axis=tuple(b for b in range(3) if b != a)) for a in range(3)]
    mean = [p @ x for p, x in zip(sums, axes, strict=True)]
    return evidence, mean, [np.sqrt(p @ (x - m) ** 2) for p, x, m in zip(sums, axes, mean, strict=True)]


@pytest.fixture(scope="module")
def twin():
    """The twin, an observation of it, its target and the result of an adaptive grid."""
    with jax.enable_x64(True):
        dust = make_twin(SIZE)
        y = bd.NoisyDiffusion(dust, 0.6, (67.0, 0.0224)).sample(jax.random.key(5))
        model = make_model(dust)
        target = build_target(KEY, model, (y,))
        algorithm = bd.Grid({"H0": 20, "omega_b": 20, "sigma": 20}, batch_size=128)
        return dust, model, y, target, algorithm, algorithm.run(KEY, target, 2, 500, False)


@pytest.mark.usefixtures("x64")
def test_the_twin_against_a_dense_sum(twin):
    dust, _, y, _, _, data = twin
    evidence, mean, sd = closed_form(np.asarray(y), dust)
    assert abs(data.attrs["log_evidence"] - evidence) < 0.02
    assert data.attrs["num_evaluations"] < 7500
    for name, centre, width in zip(PRIOR_BOUNDS, mean, sd, strict=True):
        assert abs(draws(data, name).mean() - centre) < 4 * width / np.sqrt(1000)
        density = data["marginals"][f"density_{name}"]
        assert abs((density * density[name]).integrate(name) - centre) < 0.02 * width
    np.testing.assert_allclose(
        draws(data, "t_star"), dust.schedule.time_of_noise_level(draws(data, "sigma")), rtol=1e-6
    )


@pytest.mark.usefixtures("x64")
def test_new_data_compile_nothing_and_the_same_key_gives_the_same_draws(twin):
    _, _, y, target, algorithm, data = twin
    again = algorithm.run(KEY, target.with_data(KEY, y), 2, 500, False)
    assert again.attrs["compile_seconds"] == 0.0
    xr.testing.assert_identical(again["posterior"].to_dataset(), data["posterior"].to_dataset())


@pytest.mark.usefixtures("x64")
def test_fields_are_drawn_for_the_draws_of_a_grid(twin):
    _, model, y, _, _, data = twin
    fields = bd.draw_fields(KEY, model, y, data=data, num_draws=4, num_steps=2, progress=False)["fields"]
    assert fields["dust"].shape == (2, 2, 1, SIZE, SIZE)
    assert bool(np.isfinite(fields["dust"]).all())


def test_a_result_is_stored(tmp_path):
    path = tmp_path / "grid.zarr"
    data = run(on_unit_box(1, gaussian([0.5], 0.1)), bd.Grid({"x0": 9}), num_samples=20, store=path)
    with xr.open_datatree(path, consolidated=False) as stored:
        assert stored.attrs["log_evidence"] == data.attrs["log_evidence"]
        assert stored.attrs["algorithm"] == "Grid"
        np.testing.assert_array_equal(stored["posterior"]["x0"], data["posterior"]["x0"])
    with pytest.raises(FileExistsError):
        run(on_unit_box(1, gaussian([0.5], 0.1)), bd.Grid({"x0": 9}), num_samples=20, store=path)


def test_too_few_evaluations_are_said():
    model = on_unit_box(2, lambda x: 200.0 * jnp.sin(17.0 * x[0]) * jnp.cos(13.0 * x[1]))
    with pytest.warns(UserWarning, match="max_evaluations"):
        data = run(model, bd.Grid({"x0": 20, "x1": 20}, max_evaluations=600), num_samples=10)
    assert data.attrs["grid_converged"] == 0
    assert data.attrs["num_evaluations"] <= 600
    with pytest.raises(ValueError, match="starts with 528 evaluations"):
        run(model, bd.Grid({"x0": 20, "x1": 20}, max_evaluations=500))


def test_a_posterior_cut_by_a_chosen_bound_is_said():
    with pytest.warns(UserWarning, match="posterior of 'x0' is cut at the high bound 0.5"):
        run(on_unit_box(1, gaussian([0.5], 0.1)), bd.Grid({"x0": (0.0, 0.5, 20)}), num_samples=10)


def two_sites(y=None):
    numpyro.sample("a", dist.Uniform(0.0, 1.0))
    numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.factor("data", 0.0)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"a": 10, "b": (-3.0, 3.0, 10), "c": 10}, "axis for 'c', but the latent sites are a, b"),
        ({"a": 10}, "latent site 'b' has no axis"),
        ({"a": 10, "b": 10}, r"support of site 'b' is not bounded.*'b': \(low, high, 10\)"),
        ({"a": 3, "b": (-3.0, 3.0, 10)}, "axis 'a' needs at least 5 points, got 3"),
        ({"a": 10.0, "b": (-3.0, 3.0, 10)}, "axis 'a' needs at least 5 points, got 10.0"),
        ({"a": (0.0, 2.0, 10), "b": (-3.0, 3.0, 10)}, r"axis 'a' runs over \(0.0, 2.0\), beyond the support"),
        ({"a": 10, "b": (3.0, -3.0, 10)}, "must run from a lower to a higher value"),
        ({"a": 10, "b": [0.0, 1.0, 1.0, 2.0, 3.0]}, "at least 5 finite, increasing numbers"),
        ({"a": 10_000, "b": (-3.0, 3.0, 10_000)}, "at most 20000000 points"),
    ],
)
def test_axes_that_do_not_fit_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        run(two_sites, bd.Grid(points))


def test_models_that_do_not_fit_are_refused():
    def field():
        numpyro.sample("x", dist.Normal(jnp.zeros((1, 4, 4)), 1.0).to_event(3))
        numpyro.factor("data", 0.0)

    def nested():
        low = numpyro.sample("low", dist.Uniform(0.0, 1.0))
        numpyro.sample("x", dist.TruncatedNormal(0.0, 1.0, low=low))
        numpyro.factor("data", 0.0)

    def discrete():
        numpyro.sample("n", dist.Poisson(2.0))
        numpyro.factor("data", 0.0)

    with pytest.raises(ValueError, match=r"scalar sites, latent site 'x' has shape \(1, 4, 4\)"):
        run(field, bd.Grid({"x": 10}))
    with pytest.raises(ValueError, match="support of site 'x' depends on other sites"):
        run(nested, bd.Grid({"low": 10, "x": (0.0, 5.0, 10)}))
    with pytest.raises(ValueError, match="latent site 'n' is discrete"):
        run(discrete, bd.Grid({"n": 10}))
    with pytest.raises(ValueError, match="at most 4 dimensions, the model has 5"):
        run(on_unit_box(5, jnp.sum), bd.Grid({f"x{i}": 10 for i in range(5)}))


def test_densities_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="NaN or .infinity at .* points, the first x0="):
        run(on_unit_box(1, lambda x: jnp.log(x[0] - 0.5)), bd.Grid({"x0": 10}))
    with pytest.raises(ValueError, match="zero at all 40 points"):
        run(on_unit_box(1, lambda x: -jnp.inf), bd.Grid({"x0": 10}))
    target = build_target(KEY, on_unit_box(1, jnp.sum))
    with pytest.raises(ValueError, match="model's own density"):
        bd.Grid({"x0": 10}).run(KEY, target.with_density(lambda position, data: 0.0), 1, 10, False)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="at least one site"):
        bd.Grid({})
    with pytest.raises(ValueError, match="must be positive"):
        bd.Grid({"x0": 10}, max_error=0.0)
