"""The baselines of dark-matter fields, on Gaussian fields whose log power is linear in the parameters."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import log_density
from scipy import stats
from typer.testing import CliRunner

import models.__main__ as command
from bayesdiff.training_loop import TrainingSettings
from bayesdiff.windows import LabelledFields
from models.density_fields import baselines as store
from models.density_fields.data import MAPS_PER_SIMULATION, PARAMETER_BOUNDS, Standardisation
from models.density_fields.power_spectrum import (
    Moments,
    bin_edges,
    fit_power_spectrum,
    make_power_spectrum_model,
    posterior_moments,
    untrained_power_spectrum,
)
from models.density_fields.regression import negative_log_density, predict, train_regression, untrained_regression

SIZE, NUM_BINS, NUM_TEST = 16, 6, 200
LOW, HIGH = (np.array(ends) for ends in zip(*PARAMETER_BOUNDS.values(), strict=True))
K = np.maximum(np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIZE, 1.0 / SIZE)] * 2)), 1.0)
CHANNELS = (8, 16)
QUICK = TrainingSettings(
    steps=160, batch_size=32, learning_rate=5e-3, warmup_steps=10, ema_decay=0.95, checkpoint_every=60, log_every=40
)
SCALE = Standardisation(11.2, 0.5)


def power(parameters: np.ndarray) -> np.ndarray:
    """exp(a) (k / 3)^-n with a in [-1, 1] and n in [1, 3], linear in the parameters (N, 2); shape (N, SIZE, SIZE)."""
    a, n = (2.0 * (parameters - LOW) / (HIGH - LOW) + [-1.0, 1.0]).T[:, :, None, None]
    return np.exp(a - n * np.log(K / 3.0))


def simulate(seed: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    parameters = rng.uniform(LOW, HIGH, (num, 2))
    modes = np.fft.fft2(rng.normal(size=(num, SIZE, SIZE))) * np.sqrt(power(parameters))
    return np.fft.ifft2(modes).real[:, None].astype(np.float32), parameters


def exact_moments(fields: np.ndarray, num: int = 60) -> Moments:
    """Of the posterior given all modes of each field."""
    axes = [low + (high - low) * (np.arange(num) + 0.5) / num for low, high in zip(LOW, HIGH, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    expected = power(points).reshape(len(points), -1)
    observed = np.abs(np.fft.fft2(fields[:, 0].astype(np.float64), norm="ortho")).reshape(len(fields), -1) ** 2
    log_density = -0.5 * ((1.0 / expected) @ observed.T + np.log(expected).sum(axis=1)[:, None])
    weight = np.exp(log_density - log_density.max(axis=0))
    weight /= weight.sum(axis=0)
    mean = weight.T @ points
    return Moments(mean, np.sqrt(weight.T @ points**2 - mean**2))


def mean_abs_z(moments: Moments, parameters: np.ndarray) -> np.ndarray:
    return np.abs((moments.mean - parameters) / moments.sd).mean(axis=0)


def calibrated(moments: Moments, parameters: np.ndarray) -> np.ndarray:
    """Whether mean |z| of each parameter is within four standard errors of a normal law's, 0.80."""
    error = np.sqrt((1.0 - 2.0 / np.pi) / len(parameters))
    return np.abs(mean_abs_z(moments, parameters) - np.sqrt(2.0 / np.pi)) < 4.0 * error


@pytest.fixture(scope="module")
def spectrum():
    return fit_power_spectrum(*simulate(1, 2000), fields_per_simulation=1, num_bins=NUM_BINS)


@pytest.fixture(scope="module")
def test_set():
    return simulate(2, NUM_TEST)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    lines: list[str] = []
    fields, parameters = simulate(3, 2000)
    labelled = LabelledFields(jnp.asarray(fields), jnp.asarray(parameters, dtype=jnp.float32))
    folder = tmp_path_factory.mktemp("regression")
    start = untrained_regression(channels=CHANNELS)
    trained = train_regression(labelled, start, QUICK, folder, lines.append)
    return SimpleNamespace(start=start, trained=trained, labelled=labelled, folder=folder, lines=lines)


def test_the_posterior_of_the_power_spectrum_is_calibrated_and_nearly_as_narrow_as_the_exact_one(spectrum, test_set):
    fields, parameters = test_set
    moments, exact = posterior_moments(spectrum, fields), exact_moments(fields)
    assert calibrated(moments, parameters).all(), mean_abs_z(moments, parameters)
    # All of the information is in the powers, and bins of |k| keep nearly all of it: both posteriors are one.
    np.testing.assert_allclose(moments.sd.mean(axis=0), exact.sd.mean(axis=0), rtol=0.1)
    assert (np.std((moments.mean - exact.mean) / exact.sd, axis=0) < 0.5).all()
    # The check can fail: of a likelihood of half the width it does.
    narrow = replace(spectrum, log_variance=spectrum.log_variance.at[0].add(-np.log(4.0)))
    assert not calibrated(posterior_moments(narrow, fields), parameters).any()


def test_the_variance_follows_the_parameters_and_is_raised_for_few_simulations():
    """Field means of standard deviation exp(a x): a law of t that is known."""
    rng = np.random.default_rng(0)
    _, parameters = simulate(4, 3000)
    x = (2.0 * parameters[:, 0] - 0.6) / 0.4
    white = rng.normal(size=(len(x), 1, SIZE, SIZE)).astype(np.float32)
    fields = (
        white - white.mean((-2, -1), keepdims=True) + (np.exp(0.7 * x) * rng.normal(size=len(x)))[:, None, None, None]
    )
    fitted = fit_power_spectrum(fields, parameters, fields_per_simulation=30, num_bins=NUM_BINS)
    for value in (0.15, 0.3, 0.45):
        sd = np.sqrt(fitted.at(jnp.array([value, 0.8])).variance[0])
        raised = np.sqrt(100 / (100 - 10 - 7 - 1))
        # 10 and 6 terms fitted to 3000 fields: a few percent.
        assert sd == pytest.approx(raised * np.exp(0.7 * (2.0 * value - 0.6) / 0.4), rel=0.1)


def test_the_numpyro_model_is_the_normal_law_of_the_summary(spectrum, test_set):
    fields, _ = test_set
    t = np.asarray(spectrum.summary(fields[:3]))
    point = {"Omega_m": 0.27, "sigma_8": 0.91}
    law = spectrum.at(jnp.array(list(point.values())))
    expected = stats.multivariate_normal(law.mean, np.asarray(law.covariance_matrix)).logpdf(t)
    prior = -np.log(np.prod(HIGH - LOW))
    model = make_power_spectrum_model(spectrum)
    assert log_density(model, (t[0],), {}, point)[0] == pytest.approx(expected[0] + prior, rel=1e-4)
    assert log_density(model, (t,), {}, point)[0] == pytest.approx(expected.sum() + prior, rel=1e-4)
    drawn = Predictive(model, num_samples=5)(jax.random.key(0), num_fields=4)
    assert drawn["summary"].shape == (5, 4, NUM_BINS + 1)
    sites = handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(t[0])
    assert [name for name, site in sites.items() if site["is_observed"]] == ["summary"]


def test_the_summary_is_mean_and_binned_power(spectrum, test_set):
    field = test_set[0][0]
    t = np.asarray(spectrum.summary(field))
    assert t[0] == pytest.approx(field.mean(), abs=1e-6)
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIZE, 1.0 / SIZE)] * 2))
    modes = np.abs(np.fft.fft2(field[0], norm="ortho")) ** 2
    edges = bin_edges(SIZE, NUM_BINS)
    binned = [modes[(k >= low) & (k < high)].mean() for low, high in zip(edges[:-1], edges[1:], strict=True)]
    np.testing.assert_allclose(t[1:], np.log10(binned), rtol=1e-3, atol=1e-4)
    assert ((k > 0) == ((k >= edges[0]) & (k < edges[-1]))).all()


def test_a_part_of_the_summary_has_the_marginal_law(spectrum, test_set):
    point = jnp.array([0.2, 0.7])
    law = spectrum.at(point)
    for mean, bins, kept in ((True, False, slice(0, 1)), (False, True, slice(1, None))):
        part = spectrum.restricted(mean=mean, spectrum=bins)
        np.testing.assert_allclose(part.at(point).mean, law.mean[kept], rtol=1e-6)
        np.testing.assert_allclose(part.at(point).covariance_matrix, law.covariance_matrix[kept, kept], rtol=1e-4)
        np.testing.assert_array_equal(part.summary(test_set[0]), spectrum.summary(test_set[0])[:, kept])
        wider = posterior_moments(part, test_set[0]).sd.mean(axis=0)
        assert (wider > posterior_moments(spectrum, test_set[0]).sd.mean(axis=0)).all()
    with pytest.raises(ValueError, match="cannot be restricted to mean=True, spectrum=False"):
        spectrum.restricted(mean=False).restricted(spectrum=False)


def test_what_a_fit_refuses(spectrum):
    fields, parameters = simulate(5, 60)
    with pytest.raises(ValueError, match=r"parameters of 60 fields must have shape \(60, 2\), got \(59, 2\)"):
        fit_power_spectrum(fields, parameters[:-1], 1, NUM_BINS)
    with pytest.raises(ValueError, match="parameters must lie between"):
        fit_power_spectrum(fields, parameters + 1.0, 1, NUM_BINS)
    with pytest.raises(ValueError, match="needs more than 36 simulations, got 4"):
        fit_power_spectrum(fields, parameters, 15, NUM_BINS)
    with pytest.raises(ValueError, match=r"fields must have shape \(..., 1, 16, 16\), got \(1, 8, 8\)"):
        spectrum.summary(np.zeros((1, 8, 8)))


def test_the_network_learns_and_its_answers_are_sane(network, test_set):
    fields, parameters = test_set
    before = float(np.mean(negative_log_density(network.start, fields, parameters)))
    after = float(np.mean(negative_log_density(network.trained, fields, parameters)))
    # The prior: -log sd + z^2 / 2 of two uniform parameters, 1 on average.
    assert before == pytest.approx(1.0, abs=0.2)
    moments, exact = predict(network.trained, fields), exact_moments(fields)
    # A normal law of the exact width would have a loss of log(sd / prior sd) + 1/2 for each parameter.
    best = float(np.mean(np.sum(np.log(exact.sd * np.sqrt(12.0) / (HIGH - LOW)) + 0.5, axis=1)))
    assert best < after < before + 0.7 * (best - before)
    assert ((mean_abs_z(moments, parameters) > 0.55) & (mean_abs_z(moments, parameters) < 1.1)).all()
    assert len(network.lines) == 4
    entries = [json.loads(line) for line in (network.folder / "progress.jsonl").read_text().splitlines()]
    assert entries[-1]["loss"] < entries[0]["loss"]


def test_the_network_does_not_see_shifts_of_its_grid(network, test_set):
    fields = test_set[0][:3]
    moments, moved = predict(network.trained, fields), predict(network.trained, np.roll(fields, (4, 8), (-2, -1)))
    np.testing.assert_allclose(moments.mean, moved.mean, rtol=1e-4)
    np.testing.assert_allclose(moments.sd, moved.sd, rtol=1e-3)


@pytest.mark.slow
def test_an_interrupted_training_is_the_uninterrupted_one(network, tmp_path):
    def killed(line: str) -> None:
        raise KeyboardInterrupt

    short = replace(QUICK, steps=12, checkpoint_every=6, log_every=9)
    whole = train_regression(network.labelled, network.start, short, tmp_path / "whole", str)
    with pytest.raises(KeyboardInterrupt):
        train_regression(network.labelled, network.start, short, tmp_path / "parts", killed)
    parts = train_regression(network.labelled, network.start, short, tmp_path / "parts", str)
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    other = untrained_regression(channels=(4, 8))
    with pytest.raises(
        ValueError, match=r"belongs to another network or optimiser \(.*expected .*, got .*move it away"
    ):
        train_regression(network.labelled, other, short, tmp_path / "parts", str)
    with pytest.raises(ValueError, match=r"H and W divisible by 4, got \(1, 1, 6, 6\)"):
        predict(network.trained, np.zeros((1, 1, 6, 6)))


@pytest.fixture
def stored(spectrum, network, tmp_path):
    path = tmp_path / "baselines.safetensors"
    store.save_baselines(store.Baselines(spectrum, network.trained), SCALE, path, title="toy")
    return path


def test_stored_baselines_come_back(stored, spectrum, network, test_set):
    loaded = store.load_baselines(stored)
    point = jnp.array([0.2, 0.7])
    np.testing.assert_array_equal(loaded.power_spectrum.at(point).scale_tril, spectrum.at(point).scale_tril)
    np.testing.assert_array_equal(
        predict(loaded.regression, test_set[0]).mean, predict(network.trained, test_set[0]).mean
    )
    assert store.scale_of(stored) == SCALE
    assert store.read_card(stored)["title"] == "toy"
    assert sorted(path.name for path in stored.parent.iterdir()) == ["baselines.json", "baselines.safetensors"]


def test_damaged_files_are_refused(stored, spectrum, network):
    content, card_path = stored.read_bytes(), stored.with_suffix(".json")
    card = json.loads(card_path.read_text())

    def with_card(**entries):
        card_path.write_text(json.dumps(card | entries))

    stored.write_bytes(content[:-8])
    with pytest.raises(ValueError, match="truncated, tampered or mismatched.*train density_baselines makes both anew"):
        store.load_baselines(stored)
    stored.write_bytes(content)
    for entries, message in (
        ({"num_bins": NUM_BINS + 1}, "does not have the arrays of its card: 3 arrays do not fit"),
        ({"channels": [8, 16, 32]}, "does not have the arrays of its card"),
        ({"format": 7}, "must be a card of baselines of format 1, got format 7"),
        ({"parameter_bounds": {"Omega_m": [0.1, 0.6], "sigma_8": [0.6, 1.0]}}, "is for the box .*0.6.*expected .*0.5"),
    ):
        with_card(**entries)
        with pytest.raises(ValueError, match=message):
            store.load_baselines(stored)
    del card["channels"]
    with_card()
    with pytest.raises(ValueError, match="lacks the entries .'channels'."):
        store.load_baselines(stored)
    card_path.write_text("{")
    with pytest.raises(ValueError, match="the card is damaged"):
        store.load_baselines(stored)
    card_path.unlink()
    with pytest.raises(FileNotFoundError, match=r"baselines.json, which is missing; python -m models train density_ba"):
        store.load_baselines(stored)


def test_the_shipped_baselines_are_those_of_the_recipe():
    shipped, card = store.load_baselines(), store.read_card()
    template = jax.eval_shape(lambda: store.Baselines(untrained_power_spectrum(64), untrained_regression()))
    assert jax.tree.structure(shipped) == jax.tree.structure(template)
    assert card["held_out"]["fields"] == 150
    # Within four standard errors of 150 maps: both are honest enough to be measured against.
    for name in ("mean_and_spectrum", "regression"):
        for figures in card["held_out"][name].values():
            assert 0.6 < figures["mean_abs_z"] < 1.0


@pytest.mark.slow
def test_the_command_trains_measures_and_writes(monkeypatch, tmp_path):
    fields, parameters = simulate(6, 60)

    def labelled(part: slice) -> LabelledFields:
        repeated = (np.repeat(x[part], MAPS_PER_SIMULATION, axis=0) for x in (fields, parameters))
        return LabelledFields(*(jnp.asarray(x, jnp.float32) for x in repeated))

    simulated = SimpleNamespace(training=labelled(slice(0, 50)), held_out=labelled(slice(50, 60)), scale=SCALE)
    monkeypatch.setattr(store, "load_fields", lambda: simulated)
    output = tmp_path / "toy.safetensors"
    arguments = ["train", "density_baselines", "--steps", "2", "--folder", str(tmp_path), "--output", str(output)]
    result = CliRunner().invoke(command.app, arguments)
    assert result.exit_code == 0, result.output
    assert store.read_card(output)["training"]["steps"] == 2
    assert store.read_card(output)["held_out"]["fields"] == 10


def test_each_simulation_is_measured_on_one_of_its_maps():
    fields = np.arange(45.0)[:, None, None, None] * np.ones((1, 1, 2, 2))
    some, parameters = store.one_map_each(LabelledFields(jnp.asarray(fields), jnp.repeat(jnp.eye(3)[:, :2], 15, 0)))
    np.testing.assert_array_equal(some[:, 0, 0, 0], [0, 16, 32])
    np.testing.assert_array_equal(parameters, np.eye(3)[:, :2])


def test_a_training_starts_from_another_model(monkeypatch, tmp_path):
    """Only that of density_fields; the network of the given folder arrives at it."""
    from models.density_fields import prior
    from models.gaussian_fields.data import exact_prior

    told = []
    monkeypatch.setattr(prior, "train_denoiser", lambda settings, folder, start: told.append(start))
    monkeypatch.setattr(prior, "publish", lambda denoiser, settings, output: None)
    folder = exact_prior(SIZE).save(tmp_path / "start")
    result = CliRunner().invoke(command.app, ["train", "density_fields", "--start", str(folder)])
    assert result.exit_code == 0, result.output
    assert type(told[0]).__name__ == "GaussianFamily"
    result = CliRunner().invoke(command.app, ["train", "density_fields", "--start", str(tmp_path)])
    assert result.exit_code == 2
    assert "a model is a folder" in result.output
    result = CliRunner().invoke(command.app, ["train", "dust_cmb", "--start", str(folder)])
    assert result.exit_code == 2
    assert "--start is for density_fields, got dust_cmb" in result.output
