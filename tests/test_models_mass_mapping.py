"""Mass mapping: averaging of the shear, the Wiener map against matrices, the sampled twin, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from numpyro import handlers
from scipy.stats import multivariate_normal
from typer.testing import CliRunner

import bayesdiff as bd
import inference.mass_mapping
from bayesdiff.cosmology import convergence_to_shear, shear_to_convergence
from bayesdiff.diffusion.model import Card
from inference.__main__ import app
from inference.mass_mapping import reconstruct
from models.mass_mapping import data, prior, quality
from models.mass_mapping.data import Survey, average_shear, load_convergence, load_cosmos, pad
from models.mass_mapping.model import LEVEL_SD, chi_square, make_model, observe
from models.mass_mapping.wiener import dense_posterior, wiener_map
from models.shared_data import data_folder
from tests.diffusion_toys import dense_covariance, red_power
from validation.mass_mapping import errors, figures_of, interval_coverage, rms_error
from validation.noncentred import deviations

SIZE, KAPPA_SD, MEAN = 8, 0.02, 0.3


def twin() -> bd.DiffusionModel:
    gaussian = bd.GaussianDenoiser(jnp.asarray(red_power(SIZE)), MEAN)
    return bd.DiffusionModel(gaussian, bd.schedules.Cosine(), bd.WhiteNoise(), (1, SIZE, SIZE))


def known_twin() -> bd.DiffusionModel:
    """With what a published prior's card says of it."""
    scale = data.LogConvergence(0.045, 0.0, 0.4)
    return replace(twin(), card=Card({"log_convergence": scale._asdict(), "pixel_arcmin": data.PIXEL_ARCMIN}))


def linear(x: jax.Array) -> jax.Array:
    """A scale of convergence with which the posterior is Gaussian, known in closed form."""
    return KAPPA_SD * x


def gaussian() -> bd.GaussianDenoiser:
    """The field of convergence of `twin` and `linear`."""
    return bd.GaussianDenoiser(jnp.asarray(KAPPA_SD**2 * red_power(SIZE)), KAPPA_SD * MEAN)


def survey() -> Survey:
    rng = np.random.default_rng(1)
    mask = rng.random((SIZE, SIZE)) > 0.3
    mask[:, :1] = False
    return Survey(mask, np.where(mask, rng.uniform(0.005, 0.015, (2, SIZE, SIZE)), 0.0))


def observation(level: float = 1.1) -> data.ShearMap:
    kappa = KAPPA_SD * np.asarray(bd.DiffusionPrior(twin()).sample(jax.random.key(3)))
    return observe(jax.random.key(4), kappa, survey(), level)


def true_kappa(observed: data.ShearMap) -> np.ndarray:
    assert observed.truth is not None
    return observed.truth["kappa"]


def test_blocks_are_averaged_by_inverse_variance():
    rng = np.random.default_rng(0)
    shear, sd, mask = rng.normal(size=(2, 4, 6)), rng.uniform(0.1, 1.0, (2, 4, 6)), rng.random((4, 6)) > 0.3
    mask[:2, 2:4] = False
    shear[:, ~mask] = np.nan
    mean, averaged = average_shear(shear, sd, mask, 2)
    assert mean.shape == averaged.noise_sd.shape == (2, 2, 3)
    assert mean.dtype == np.float32
    assert averaged.mask.tolist() == [[True, False, True], [True, True, True]]
    assert np.all(mean[:, 0, 1] == 0.0)
    assert np.all(averaged.noise_sd[:, 0, 1] == 0.0)
    seen = mask[2:, 4:]
    weights = sd[1, 2:, 4:][seen] ** -2
    assert mean[1, 1, 2] == pytest.approx(np.average(shear[1, 2:, 4:][seen], weights=weights), rel=1e-6)
    assert averaged.noise_sd[1, 1, 2] == pytest.approx(weights.sum() ** -0.5, rel=1e-6)


def test_padding_is_unobserved():
    padded = pad(observation(), 11)
    assert padded.shear.shape == padded.survey.noise_sd.shape == (2, 11, 11)
    assert padded.survey.mask.sum() == survey().mask.sum()
    np.testing.assert_array_equal(padded.survey.mask[1:9, 1:9], survey().mask)
    with pytest.raises(ValueError, match="8 x 8 pixels does not fit in 7 x 7"):
        pad(observation(), 7)


def test_cosmos_has_more_e_than_b_modes(data_dir):
    cosmos = load_cosmos(data_dir)
    mask, noise_sd = cosmos.survey
    assert cosmos.shear.shape == (2, 64, 64)
    assert 1900 < mask.sum() < 2200
    assert not mask[:2].any()
    assert 0.015 < np.median(noise_sd[0][mask]) < 0.03
    weight = np.where(mask, 1.0 / np.where(mask, noise_sd, 1.0) ** 2, 0.0)
    weight /= weight.max()

    def variances(shear: np.ndarray) -> np.ndarray:
        return np.asarray(shear_to_convergence(weight * shear))[..., mask].var(axis=-1)

    noise = noise_sd * np.random.default_rng(0).normal(size=(64, 2, 64, 64))
    of_noise = variances(noise.astype(np.float32))
    excess = (variances(cosmos.shear) - of_noise.mean(axis=0)) / of_noise.std(axis=0)
    flipped = variances(cosmos.shear * np.array([1.0, -1.0], np.float32)[:, None, None])
    assert excess[0] > 5.0
    assert excess[0] > 2.0 * excess[1]
    assert variances(cosmos.shear)[1] < flipped[1]


def test_simulated_maps_are_standardised_and_apart(data_dir):
    maps = load_convergence(data_dir)
    assert maps.training.shape == (36, 1, 84, 84)
    assert maps.held_out.shape == (1, 1, 75, 75)
    assert abs(maps.training.mean()) < 1e-4
    assert maps.training.std() == pytest.approx(1.0, abs=1e-4)
    assert abs(np.mean(maps.training**3)) < 0.3
    kappa = np.asarray(maps.scale.convergence(maps.training))
    assert 0.01 < kappa.std() < 0.03
    assert np.mean(((kappa - kappa.mean()) / kappa.std()) ** 3) > 2.0
    np.testing.assert_allclose(maps.scale.field(kappa), maps.training, atol=1e-4)
    power = np.asarray(prior.gaussian_convergence(maps).power)
    # Windows lack what varies over the whole map.
    assert 0.7 < power.mean() / kappa.var() < 1.1
    with pytest.raises(FileNotFoundError):
        data_folder("none.npz")


def test_matrices_are_those_of_the_operator(x64):
    observed = observation()
    mean, covariance, log_density = dense_posterior(observed, gaussian(), 1.1)
    signal = KAPPA_SD**2 * dense_covariance(red_power(SIZE))
    basis = np.eye(SIZE**2).reshape(-1, 1, SIZE, SIZE)
    seen = np.tile(observed.survey.mask.ravel(), 2)
    response = np.stack([np.asarray(convergence_to_shear(e)).ravel() for e in basis], axis=1)[seen]
    noise = np.diag((1.1 * observed.survey.noise_sd.ravel()[seen]) ** 2)
    e = observed.shear.ravel()[seen].astype(float)
    truth = multivariate_normal(np.zeros(len(e)), response @ signal @ response.T + noise).logpdf(e)
    assert log_density == pytest.approx(truth, abs=1e-7)
    precision = np.linalg.inv(signal) + response.T @ np.linalg.solve(noise, response)
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), atol=1e-10)
    weighted = response.T @ np.linalg.solve(noise, e) + np.linalg.solve(signal, np.full(SIZE**2, KAPPA_SD * MEAN))
    np.testing.assert_allclose(mean, np.linalg.solve(precision, weighted), atol=1e-9)


def test_conjugate_gradients_against_matrices():
    observed = observation()
    mean, covariance, _ = dense_posterior(observed, gaussian(), 1.1)
    wiener = wiener_map(jax.random.key(0), observed, gaussian(), 1.1, num_draws=4000)
    sd = np.sqrt(np.diag(covariance))
    assert wiener.residual < 1e-4
    np.testing.assert_allclose(wiener.mean.ravel(), mean, atol=1e-3 * sd.min())
    np.testing.assert_allclose(wiener.sd.ravel(), sd, rtol=5.0 / np.sqrt(2 * 4000))
    draws = wiener.draws.reshape(4000, -1)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 4.5 * sd / np.sqrt(4000))
    # One number for all the correlations: the quadratic form of a right covariance is chi-square.
    centred = draws - mean
    form = np.sum(centred * np.linalg.solve(covariance, centred.T).T, axis=1)
    assert abs(form.mean() / SIZE**2 - 1.0) < 5.0 * np.sqrt(2.0 / (SIZE**2 * 4000))


def test_density_counts_seen_pixels_only(x64):
    observed = observation()
    model = make_model(twin(), observed.survey, linear)
    trace = handlers.trace(handlers.seed(model, jax.random.key(5))).get_trace(jnp.asarray(observed.shear))
    assert {"level", "x", "x_base", "kappa", "shear"} <= set(trace)
    kappa, level = np.asarray(trace["kappa"]["value"]), float(trace["level"]["value"])
    np.testing.assert_allclose(kappa, KAPPA_SD * np.asarray(trace["x"]["value"]))
    sd, mask = level * np.asarray(observed.survey.noise_sd), observed.survey.mask
    deviation = (observed.shear - np.asarray(convergence_to_shear(kappa)))[:, mask] / sd[:, mask]
    expected = np.sum(-0.5 * deviation**2 - np.log(sd[:, mask]) - 0.5 * np.log(2 * np.pi))
    assert float(trace["shear"]["fn"].log_prob(observed.shear)) == pytest.approx(expected, rel=1e-9)


def test_mass_sheet_does_not_enter_the_shear():
    kappa = true_kappa(observation())
    sheet = observe(jax.random.key(4), kappa + 0.5, survey(), 1.1)
    np.testing.assert_allclose(sheet.shear, observation().shear, atol=1e-6)
    around = observe(jax.random.key(4), np.pad(kappa, ((0, 0), (2, 2), (3, 3))), survey(), 1.1)
    np.testing.assert_array_equal(true_kappa(around), kappa)


@pytest.fixture(scope="module")
def sampled() -> xr.DataTree:
    """The twin, sampled, with its Wiener reconstruction."""
    algorithm = bd.AdjustedMCLMC(num_warmup=300)
    observed = observation()
    model = make_model(known_twin(), observed.survey, linear)
    return reconstruct(observed, gaussian(), model, algorithm=algorithm, num_samples=1000, progress=False)


def test_sampled_twin_has_the_exact_posterior(sampled):
    observed = observation()
    levels = np.exp(np.linspace(-4 * LEVEL_SD, 4 * LEVEL_SD, 41))
    exact = [dense_posterior(observed, gaussian(), level) for level in levels]
    log_weight = np.array([log_density for *_, log_density in exact]) - 0.5 * (np.log(levels) / LEVEL_SD) ** 2
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = sum(w * m for w, (m, _, _) in zip(weight, exact, strict=True))
    variance = sum(w * (np.diag(c) + (m - mean) ** 2) for w, (m, c, _) in zip(weight, exact, strict=True))
    kappa = sampled["posterior"]["kappa"].values.reshape(4, 1000, -1).astype(np.float64)
    of_means, of_variances, ess = deviations(kappa, mean, variance)
    assert ess > 400
    assert np.abs(of_means).max() < 4.5
    assert np.abs(of_variances).max() < 4.5
    log_level = np.log(sampled["posterior"]["level"].values)[..., None]
    of_level, _, ess = deviations(log_level, np.array([weight @ np.log(levels)]), np.array([1.0]))
    assert ess > 400
    assert abs(of_level[0]) < 4.5


def test_study_measures_errors_and_coverage(sampled):
    observed = observation()
    found = errors(sampled, observed)
    assert found.sampled == pytest.approx(found.wiener, rel=0.1)
    assert 0.4 < found.coverage < 0.95
    assert chi_square(true_kappa(observed), observed) == pytest.approx(1.1**2, abs=0.5)
    figures = {figure.name: figure.value for figure in figures_of(sampled, observed)}
    assert figures["correlation with the Wiener mean"] > 0.98
    with pytest.raises(ValueError, match="need the truth"):
        errors(sampled, observed._replace(truth=None))
    draws = np.random.default_rng(0).normal(size=(4000, 20, 20))
    everywhere = np.ones((20, 20), bool)
    assert interval_coverage(draws[1:], draws[0], everywhere) == pytest.approx(0.68, abs=0.1)
    assert interval_coverage(draws[1:], 3.0 * draws[0], everywhere) < 0.4
    assert rms_error(draws[0] + 5.0, draws[0], everywhere) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.slow
def test_run_ends_in_a_report_with_maps(sampled, monkeypatch, tmp_path):
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
    monkeypatch.setattr(inference.mass_mapping, "load_prior", lambda name: known_twin())
    few = sampled.map_over_datasets(lambda group: group.isel(draw=slice(0, 200)) if "draw" in group.dims else group)
    few.attrs.update(sampled.attrs)
    failures = [RuntimeError, KeyboardInterrupt]

    def sample(*args, **kwargs):
        if failures:
            raise failures.pop()
        return few

    monkeypatch.setattr(inference.mass_mapping, "reconstruct", sample)
    monkeypatch.setattr(data, "load_cosmos", lambda: observation()._replace(truth=None))
    arguments = ["mass_mapping", "--quiet", "--output", str(tmp_path / "map")]
    assert runner.invoke(app, arguments).exit_code == 130
    assert not list((tmp_path / "map").iterdir())
    assert runner.invoke(app, arguments).exit_code == 1
    assert [path.name for path in (tmp_path / "map").iterdir()] == ["run.json"]
    result = runner.invoke(app, ["resume", str(tmp_path / "map"), "--quiet"])
    assert result.exit_code in (0, 3), result.output
    kept = sorted(path.name for path in (tmp_path / "map").iterdir())
    assert kept == ["maps.png", "posterior.zarr", "report.html", "run.json", "summary.csv", "verdict.txt"]
    page = (tmp_path / "map" / "report.html").read_text(encoding="utf-8")
    assert "Mass maps" in page
    assert "No maps were drawn" not in page
    assert "dust s" not in page
    assert page.count("data:image/png") == 4
    stored = xr.open_datatree(tmp_path / "map" / "posterior.zarr", engine="zarr", consolidated=False)
    assert stored["wiener"]["mean"].shape == (1, SIZE, SIZE)
    assert stored["survey"]["mask"].shape == (SIZE, SIZE)
    assert "holds files" in runner.invoke(app, arguments).output
    assert "nothing to resume" in runner.invoke(app, ["resume", str(tmp_path / "map")]).output
    settings = json.loads((tmp_path / "map" / "run.json").read_text())
    (tmp_path / "map" / "run.json").write_text(json.dumps(settings | {"prior_hash": "0"}))
    shutil.rmtree(tmp_path / "map" / "posterior.zarr")
    assert "is not the one that the run" in runner.invoke(app, ["resume", str(tmp_path / "map")]).output


def test_prior_that_was_not_trained_is_said_so(monkeypatch):
    monkeypatch.setattr(bd, "list_pretrained", lambda: ())
    with pytest.raises(FileNotFoundError, match="has not been trained yet: run 'python -m models train mass_mapping'"):
        inference.mass_mapping.load_prior("kappa-64")
    with pytest.raises(FileNotFoundError, match="must be kappa-64, twin or the folder"):
        inference.mass_mapping.load_prior("/nowhere")


def test_bad_input_is_refused():
    good = survey()
    with pytest.raises(ValueError, match=r"mask must have shape \(8, 8\), got \(4, 4\)"):
        make_model(twin(), good._replace(mask=np.ones((4, 4))), linear)
    with pytest.raises(ValueError, match=r"noise_sd must have shape \(2, 8, 8\)"):
        make_model(twin(), good._replace(noise_sd=good.noise_sd[0]), linear)
    with pytest.raises(ValueError, match="0 everywhere"):
        make_model(twin(), good._replace(mask=0 * good.mask), linear)
    with pytest.raises(ValueError, match=r"noise_sd must be positive.*got -0.* and \d+ such values"):
        make_model(twin(), good._replace(noise_sd=-good.noise_sd), linear)
    with pytest.raises(ValueError, match="one channel and no context"):
        make_model(replace(twin(), context_names=("z",)), good, linear)
    with pytest.raises(ValueError, match="factor must divide"):
        average_shear(np.zeros((2, SIZE, SIZE)), good.noise_sd, good.mask, 3)
    with pytest.raises(ValueError, match="shear must be finite"):
        average_shear(np.full((2, SIZE, SIZE), np.nan), good.noise_sd, good.mask, 2)
    with pytest.raises(ValueError, match="must cover"):
        observe(jax.random.key(0), np.zeros((1, 6, 9)), good)
    with pytest.raises(ValueError, match="num_draws must be at least 2"):
        wiener_map(jax.random.key(0), observation(), gaussian(), num_draws=1)
    with pytest.raises(ValueError, match="log_convergence in its card"):
        prior.convergence_scale(twin())
    with pytest.raises(ValueError, match=r"must be above -0.045, got -0.05"):
        data.LogConvergence(0.045, 0.0, 0.4).field(np.array([0.1, -0.05]))


def test_prior_of_one_map_and_its_statistics():
    """The statistics of draws that are windows of the training map itself: no distance, no difference."""
    rng = np.random.default_rng(0)
    modes = np.fft.fft2(rng.normal(size=(1, 66, 66))) * np.sqrt(red_power(66))
    smooth = np.fft.ifft2(modes).real.astype(np.float32)
    maps = data.Convergence(
        np.broadcast_to(smooth, (36, 1, 66, 66)), smooth[None, :, ::-1], data.LogConvergence(0.045, 0.0, 0.4)
    )
    copies = np.broadcast_to(smooth[:, :64, :64], (4, 1, 64, 64))
    statistics = quality.compare_draws(copies, maps)
    assert statistics["nearest_patch_draws"] < 1e-2
    assert statistics["sd_ratio"] == pytest.approx(1.0, abs=0.1)
    model = prior.make_prior(bd.GaussianDenoiser(jnp.asarray(red_power(64))), maps)
    assert model.event_shape == (1, 64, 64)
    assert prior.convergence_scale(model) == maps.scale
    table = quality.denoising_table(model, maps, num=2)
    assert table["training"] == table["held_out"] == [1.0] * len(quality.NOISE_LEVELS)
