"""Priors of CIB and tSZ: their scale, the two-frequency likelihood, exact amplitudes on the twin, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import Predictive
from scipy.stats import multivariate_normal
from typer.testing import CliRunner

import bayesdiff as bd
import inference.cib_tsz
from bayesdiff.diffusion.model import Card
from inference.__main__ import app
from models.cib_tsz import observation, prior, quality
from models.cib_tsz.amplitudes import amplitude_posterior, log_likelihood, spectra_of
from models.cib_tsz.data import Foregrounds
from models.cib_tsz.model import CorrelatedMaps, make_model, noise_covariance
from models.cib_tsz.observation import FIELDS, RESPONSE, observe, observe_held_out, read_observation, residuals
from models.cib_tsz.pictures import draw_generated, maps_figure
from models.cib_tsz.scale import ENTRY, Scale, fit_asinh, fit_scale, mean_spectra, scale_of
from tests.diffusion_toys import dense_covariance, red_power
from validation.noncentred import deviations

SIZE, SMALL, NOISE = 16, 10, (5.4, 4.4)


def correlated(num: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Periodic maps of two channels, correlated differently on large and small scales, one of them skewed."""
    rng = np.random.default_rng(seed)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(size, 1.0 / size), np.fft.fftfreq(size, 1.0 / size)))
    white = np.fft.fft2(rng.normal(size=(num, 2, size, size)))
    root = np.sqrt(red_power(size, -2.0))
    first = np.fft.ifft2(white[:, 0] * root).real
    second = np.fft.ifft2(white[:, 1] * root + white[:, 0] * root * 6.0 / (6.0 + k)).real
    return np.stack([3.0 * first + 10.0, -np.exp(0.8 * second)], axis=1)


def linear_scale(size: int = SIZE) -> Scale:
    """Channels that stay linear, the second with 0.5 of the first in it on large scales and none on small ones."""
    slopes = np.zeros((2, 2, size))
    slopes[1, 0] = -0.5 / (1.0 + np.arange(size))
    return Scale(FIELDS, np.array([14.0, -1.8]), np.zeros(2), np.zeros(2), np.array([3.0, 2.5]), slopes)


def linear_twin(size: int = SIZE) -> bd.DiffusionModel:
    """A Gaussian prior of CIB and tSZ whose scale is linear."""
    power = jnp.asarray(np.stack([red_power(size, -1.0), red_power(size, -2.0)]))
    return prior.make_prior(bd.GaussianDenoiser(power, jnp.zeros((2, 1, 1))), linear_scale(size))


def linear_spectra(size: int = SIZE) -> np.ndarray:
    """Its spectra [micro-K^2], worked out by hand, (2, 2, size, size)."""
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(size, 1.0 / size), np.fft.fftfreq(size, 1.0 / size)))
    slope = np.interp(k, np.arange(size), -0.5 / (1.0 + np.arange(size)))
    cib, rest = 9.0 * red_power(size, -1.0), 6.25 * red_power(size, -2.0)
    return np.array([[cib, slope * cib], [slope * cib, slope**2 * cib + rest]])


def cmb(size: int = SIZE) -> np.ndarray:
    power = 400.0 * red_power(size, -4.0)
    power[0, 0] = 0.0
    return power


def linear_observation(amplitudes=(1.3, 0.7), size: int = SIZE) -> observation.Observation:
    maps = np.asarray(linear_scale(size).maps(bd.DiffusionPrior(linear_twin(size)).sample(jax.random.key(3))))
    foregrounds = np.concatenate([observation.CIB_RATIO * maps[:1], maps])
    return observe(jax.random.key(4), foregrounds, amplitudes, NOISE, cmb(size))


def test_scale_is_undone_exactly(x64):
    patches = correlated(40)
    scale = fit_scale(patches, FIELDS)
    fields = scale.field(patches)
    np.testing.assert_allclose(scale.maps(fields), patches, rtol=1e-10)
    np.testing.assert_allclose(fields.std(axis=(0, 2, 3)), 1.0, rtol=1e-6)
    np.testing.assert_allclose(fields.mean(axis=(0, 2, 3)), 0.0, atol=1e-6)
    # The augmentation of the training must not leave the law: turns and flips commute with the step.
    np.testing.assert_allclose(scale.field(np.rot90(patches, axes=(2, 3))), np.rot90(fields, axes=(2, 3)), atol=1e-9)
    np.testing.assert_allclose(scale.field(patches[..., ::-1]), fields[..., ::-1], atol=1e-9)


def test_channels_have_no_cross_spectrum_left(x64):
    patches = correlated(200)
    before = mean_spectra(np.asarray(fit_scale(patches, FIELDS, linear=FIELDS).compress(patches)))
    after = mean_spectra(np.asarray(fit_scale(patches, FIELDS).field(patches)))

    def coefficient(spectra: np.ndarray) -> np.ndarray:
        return spectra[0, 1] / np.sqrt(spectra[0, 0] * spectra[1, 1])

    assert np.abs(coefficient(before)[1:4]).min() > 0.3
    np.testing.assert_allclose(coefficient(after)[1:], 0.0, atol=0.03)


def test_compression_finds_the_scale_of_skewed_pixels():
    rng = np.random.default_rng(0)
    values = -2.0 + 0.7 * np.sinh(0.9 * rng.normal(size=200_000) - 1.1)
    middle, width = fit_asinh(values)
    assert middle == pytest.approx(-2.0, abs=0.05)
    assert width == pytest.approx(0.7, rel=0.05)


def test_scale_survives_its_card(tmp_path):
    scale = fit_scale(correlated(40), FIELDS)
    model = prior.make_prior(bd.GaussianDenoiser(jnp.ones((2, SIZE, SIZE)), 0.0), scale)
    model.save(tmp_path / "model")
    found = scale_of(bd.load_model(tmp_path / "model"), FIELDS, 2.0)
    assert found.channels == FIELDS
    for ours, theirs in zip(found[1:], scale[1:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_cards_that_do_not_match_are_refused():
    model = linear_twin()
    with pytest.raises(ValueError, match="with foregrounds in its card; its card has nothing"):
        scale_of(replace(model, card=Card({})), FIELDS)
    with pytest.raises(ValueError, match="channels tsz_150, cib_150 in this order, got cib_150, tsz_150"):
        scale_of(model, FIELDS[::-1])
    with pytest.raises(ValueError, match="channels cib_95, cib_150, cib_857 in this order, got cib_150, tsz_150"):
        scale_of(model, prior.CIB.channels)
    with pytest.raises(ValueError, match="pixels must be of 2.0 arcmin, those of the prior, got 1.4"):
        scale_of(model, FIELDS, 1.4)
    with pytest.raises(ValueError, match="a model of 2 channels, as its card says, expected, got 1"):
        scale_of(replace(model, event_shape=(1, SIZE, SIZE)), FIELDS)
    with pytest.raises(ValueError, match="must have the 2 channels .* got 3"):
        fit_scale(np.zeros((4, 3, 8, 8)), FIELDS)


def dense(power: np.ndarray) -> np.ndarray:
    """Covariance of the pixels of two maps of spectra (2, 2, H, W), without their means."""
    blocks = [[dense_covariance(power[i, j]) for j in range(2)] for i in range(2)]
    return np.block(blocks)


def test_density_of_correlated_maps(x64):
    """Against the dense covariance of pixels, k = 0 left out of both."""
    size = 6
    covariance = noise_covariance(cmb(size), NOISE)
    rng = np.random.default_rng(0)
    mean, value = rng.normal(size=(2, 2, size, size))
    truth = multivariate_normal(mean.ravel(), dense(covariance), allow_singular=True)
    residual = (value - mean) - (value - mean).mean(axis=(1, 2), keepdims=True)
    found = float(CorrelatedMaps(mean, covariance).log_prob(value))
    assert found == pytest.approx(truth.logpdf((mean + residual).ravel()), rel=1e-9)
    assert float(CorrelatedMaps(mean, covariance).log_prob(value + 3.0)) == pytest.approx(found, rel=1e-9)


def test_draws_of_correlated_maps_have_their_covariance():
    size, num = 6, 4000
    covariance = noise_covariance(cmb(size), NOISE)
    mean = np.ones((2, size, size), np.float32)
    draws = np.asarray(CorrelatedMaps(mean, covariance).sample(jax.random.key(0), (num,))) - mean
    np.testing.assert_allclose(draws.mean(axis=(2, 3)), 0.0, atol=1e-4)
    modes = np.fft.fft2(draws, norm="ortho")
    found = np.einsum("nihw,njhw->ijhw", modes.conj(), modes).real / num
    scale = np.sqrt(np.einsum("iihw->ihw", covariance))
    error = (found - covariance)[..., 1:, 1:] / (scale[:, None] * scale[None])[..., 1:, 1:]
    assert np.abs(error).max() < 5.0 * np.sqrt(2.0 / num)
    with pytest.raises(ValueError, match=r"covariance must have shape \(2, 2, 6, 6\), got"):
        CorrelatedMaps(mean, covariance[:1])
    for one in (mean[0], mean[:1]):
        with pytest.raises(ValueError, match=r"maps must have shape \(\.\.\., 2, "):
            CorrelatedMaps(mean, covariance).log_prob(one)


def test_likelihood_of_amplitudes_is_that_of_pixels():
    size, amplitudes = 6, np.array([1.4, 0.6])
    maps = linear_observation(size=size).maps
    mixing = RESPONSE * amplitudes
    spectra = linear_spectra(size)
    total = np.einsum("ic,cdhw,jd->ijhw", mixing, spectra, mixing) + noise_covariance(cmb(size), NOISE)
    total[..., 0, 0] = 0.0
    centred = maps - maps.mean(axis=(1, 2), keepdims=True)
    expected = multivariate_normal(np.zeros(2 * size**2), dense(total), allow_singular=True).logpdf(centred.ravel())
    found = log_likelihood(maps, spectra, cmb(size), NOISE, amplitudes)
    assert float(found) == pytest.approx(expected, rel=1e-7)


def test_amplitude_posterior_on_a_grid():
    observed = linear_observation(size=32)
    found = amplitude_posterior(observed.maps, linear_spectra(32), cmb(32), NOISE, num=32)
    assert found.density.sum() == pytest.approx(1.0)
    assert np.all(np.abs(found.mean - (1.3, 0.7)) < 4.0 * found.sd)
    assert np.all(found.sd < 0.2)
    finer = amplitude_posterior(observed.maps, linear_spectra(32), cmb(32), NOISE, num=48)
    np.testing.assert_allclose(finer.mean, found.mean, rtol=1e-3)
    np.testing.assert_allclose(finer.sd, found.sd, rtol=1e-2)


def test_simulations_of_the_model_have_the_spectra_of_the_twin():
    model = make_model(linear_twin(), NOISE, cmb())
    simulated = Predictive(model, num_samples=600)(jax.random.key(0))
    fields = np.concatenate([simulated["cib"], simulated["tsz"]], axis=1)
    fields /= np.stack([simulated["A_cib"], simulated["A_tsz"]], axis=1)[..., None, None]
    found, expected = mean_spectra(fields), mean_spectra_of(linear_spectra())
    scale = np.sqrt(np.einsum("iik->ik", expected))
    assert np.abs((found - expected) / (scale[:, None] * scale[None]))[..., 1:].max() < 5.0 * np.sqrt(1.0 / 600)
    assert simulated["maps"].shape == (600, 2, SIZE, SIZE)


def mean_spectra_of(power: np.ndarray) -> np.ndarray:
    """Means of spectra (2, 2, H, W) over the modes of each |k|."""
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE, 1.0 / SIZE), np.fft.fftfreq(SIZE, 1.0 / SIZE)))
    band = np.floor(k + 0.5).astype(int)
    rows = [power[..., band == b].mean(axis=-1) for b in range(1, band.max() + 1)]
    return np.stack([rows[0], *rows], axis=-1)


@pytest.fixture(scope="module")
def sampled():
    observed = linear_observation(size=SMALL)
    model = make_model(linear_twin(SMALL), NOISE, cmb(SMALL))
    algorithm = bd.AdjustedMCLMC(num_warmup=200, trajectory_length=2.0)
    return observed, inference.cib_tsz.separate(
        observed, model, algorithm=algorithm, num_samples=2400, seed=1, progress=False
    )


def test_sampled_amplitudes_are_exact_on_the_twin(sampled):
    """Fields and amplitudes sampled together have the marginal posterior that the closed form gives the amplitudes."""
    observed, data = sampled
    exact = amplitude_posterior(observed.maps, linear_spectra(SMALL), cmb(SMALL), NOISE)
    draws = np.stack([data["posterior"][name].values for name in ("A_cib", "A_tsz")], axis=-1).astype(np.float64)
    mean, variance, ess = deviations(draws, exact.mean, exact.sd**2)
    assert ess > 400
    assert np.abs(mean).max() < 4.0
    assert np.abs(variance).max() < 4.0
    # The test has power: the posterior is narrower than its prior, and neither amplitude is one.
    assert np.all(exact.sd < 0.5)


def test_fields_and_residuals_add_up(sampled):
    observed, data = sampled
    posterior = data["posterior"].to_dataset()
    cib, tsz = (posterior[name].values.reshape(-1, 1, SMALL, SMALL)[::100] for name in ("cib", "tsz"))
    left = np.asarray(residuals(observed, cib, tsz))
    density = np.asarray(
        CorrelatedMaps(jnp.zeros((2, SMALL, SMALL)), noise_covariance(cmb(SMALL), NOISE)).log_prob(left)
    )
    volume = float(CorrelatedMaps(jnp.zeros((2, SMALL, SMALL)), noise_covariance(cmb(SMALL), NOISE)).log_volume)
    # Whitened residuals: of 2 (N - 1) values, a chi-square near their number, a little below where the field follows.
    chi_square = -2.0 * (density + volume) / (2 * (SMALL**2 - 1))
    assert 0.7 < chi_square.mean() < 1.2
    assert data["truth"]["A_cib"].item() == 1.3
    figure = maps_figure(observed, cib, tsz)
    assert len(figure.axes) >= 10
    with pytest.raises(ValueError, match="at least 2 draws, got 1"):
        maps_figure(observed, cib[:1], tsz[:1])


@pytest.mark.slow
def test_command_line(tmp_path, monkeypatch):
    spectra = mean_spectra_of(linear_spectra()).tolist()
    twin = replace(linear_twin(), card=Card({**linear_twin().card.entries, "spectra": spectra}))
    np.testing.assert_allclose(spectra_of(twin)[0, 0, 0, 3], linear_spectra()[0, 0, 0, 3], rtol=0.1)
    monkeypatch.setattr(inference.cib_tsz, "load_prior", lambda name: twin)
    monkeypatch.setattr(observation, "cmb_power", cmb)
    observed = linear_observation()
    monkeypatch.setattr(observation, "observe_held_out", lambda *args, **kwargs: observed)
    arguments = ["cib_tsz", "--num-chains", "2", "--num-warmup", "50", "--num-samples", "20", "--quiet"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "run")])
    assert result.exit_code in (0, 3), result.output
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What the spectra alone would say" in page
    assert "Spectra of both fields" in page
    again = CliRunner().invoke(app, ["resume", str(tmp_path / "run")])
    assert "there is nothing to resume" in again.output
    bad = CliRunner().invoke(app, ["cib_tsz", "--observation", str(tmp_path / "none.npz"), "--output", str(tmp_path)])
    assert bad.exit_code == 2


def test_observations_of_held_out_mocks(tmp_path):
    with pytest.raises(FileNotFoundError, match="at least 6 mocks"):
        observe_held_out(0, folder=tmp_path)
    with pytest.raises(ValueError, match="foregrounds must be CIB at 95 and 150 GHz and tSZ"):
        observe(jax.random.key(0), np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="two positive depths"):
        observe(jax.random.key(0), np.zeros((3, 8, 8)), noise=(5.0, 0.0), cmb=cmb(8))


def test_bad_observations_are_refused(tmp_path):
    path = tmp_path / "maps.npz"
    maps = np.zeros((2, SIZE, SIZE))

    def read(**entries) -> observation.Observation:
        np.savez(path, **{"maps": maps, "frequencies": [95, 150], "noise": [5.0, 4.0], **entries})
        return read_observation(path, SIZE)

    assert read().noise == (5.0, 4.0)
    with pytest.raises(ValueError, match=r"frequencies must be \(95, 150\) GHz in this order, got \(150, 95\)"):
        read(frequencies=[150, 95])
    with pytest.raises(ValueError, match=r"maps must have shape \(2, 16, 16\).* got \(3, 16, 16\)"):
        read(maps=np.zeros((3, SIZE, SIZE)))
    holed = maps.copy()
    holed[1, 2, 3:5] = np.nan
    with pytest.raises(ValueError, match=r"maps .*2 .*NaN"):
        read(maps=holed)
    with pytest.raises(ValueError, match="two positive depths"):
        read(noise=[5.0, -1.0])
    np.savez(path, maps=maps)
    with pytest.raises(ValueError, match="must hold maps, frequencies and noise, got maps"):
        read_observation(path, SIZE)
    with pytest.raises(FileNotFoundError):
        read_observation(tmp_path / "none.npz")


def test_models_of_other_fields_are_refused(tmp_path):
    with pytest.raises(ValueError, match="channels cib_150, tsz_150 in this order"):
        make_model(other_channels(), NOISE, cmb())
    with pytest.raises(ValueError, match=r"CMB power \(16, 16\) expected"):
        make_model(linear_twin(), NOISE, cmb(8))
    other_channels().save(tmp_path / "other")
    with pytest.raises(ValueError, match="channels cib_150, tsz_150 in this order, got tsz_150, cib_150"):
        inference.cib_tsz.load_prior(str(tmp_path / "other"))
    with pytest.raises(FileNotFoundError, match="must be cib-tsz-64, twin or the folder"):
        inference.cib_tsz.load_prior("nothing")


def other_channels() -> bd.DiffusionModel:
    model = linear_twin()
    entry = {**model.card.entries[ENTRY], "channels": ["tsz_150", "cib_150"]}
    return replace(model, card=Card({**model.card.entries, ENTRY: entry}))


def test_draws_are_rescaled_by_the_factors_of_the_card(monkeypatch):
    model = linear_twin()
    draws = {seed: np.random.default_rng(seed).normal(size=(64, 2, SIZE, SIZE)).astype(np.float32) for seed in (0, 100)}
    monkeypatch.setattr(quality, "draw_fields", lambda model, num, seed, num_evaluations: draws[seed][:num])
    with pytest.raises(ValueError, match="factors of rescaling and the extremes of maps, got one without"):
        quality.draw_maps(model, 2, rescale=True)
    training = correlated(50) * np.array([2.0, 0.5])[:, None, None]
    entry = quality.fit_rescaling(model, training, num=64)
    lowest, highest = np.array([entry["lowest"], entry["highest"]])
    np.testing.assert_array_equal(lowest, training.min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(highest, training.max(axis=(0, 2, 3)))
    wide = {"lowest": [-1e3, -1e3], "highest": [1e3, 1e3]}
    model = replace(model, card=Card({**model.card.entries, "rescaling": entry | wide}))
    # The draws that the factors were found from have, rescaled, the variance of the training maps.
    plain, drawn = (quality.draw_maps(model, 64, seed=100, rescale=rescale) for rescale in (False, True))
    np.testing.assert_allclose(drawn.std(axis=(0, 2, 3)), training.std(axis=(0, 2, 3)), rtol=0.02)
    assert np.all(np.abs(plain.std(axis=(0, 2, 3)) / training.std(axis=(0, 2, 3)) - 1.0) > 0.1)
    mean = training.mean(axis=(0, 2, 3))[:, None, None]
    factors = np.array(entry["factors"])[:, None, None]
    np.testing.assert_allclose(drawn - mean, factors * (plain - mean), atol=1e-3)
    narrow = {"lowest": (mean[:, 0, 0] - 0.5).tolist(), "highest": (mean[:, 0, 0] + 0.1).tolist()}
    model = replace(model, card=Card({**model.card.entries, "rescaling": entry | narrow}))
    cut = quality.draw_maps(model, 64, seed=100)
    np.testing.assert_allclose(cut, np.clip(drawn, mean - 0.5, mean + 0.1), atol=1e-5)


def test_the_same_fields_do_not_differ_and_brighter_ones_do():
    patches = correlated(60, seed=2, size=64).astype(np.float32)
    same = quality.difference(quality.spectra(patches), quality.spectra(patches[:, :, ::-1]))
    assert same.scatters.max() < 1e-3
    brighter = quality.difference(quality.spectra(1.1 * patches), quality.spectra(patches))
    np.testing.assert_allclose(brighter.drawn / brighter.held_out, 1.21, rtol=1e-3)
    correlation = quality.correlations(same.drawn)
    np.testing.assert_allclose(np.einsum("iik->ik", correlation), 1.0, rtol=1e-5)
    assert np.abs(correlation[0, 1]).max() < 1.0
    sd = float((patches[:, 1] - patches[:, 1].mean(axis=(1, 2), keepdims=True)).std())
    profiles = quality.stacked_profiles(patches, 1, -1.0, sd)
    assert profiles.profile.shape == (2, 2, 5)
    # The peak of a decrement is its deepest pixel, 3 to 5 standard deviations in the first range.
    assert -5.0 * sd < float(profiles.profile[1, 0, 0]) < -3.0 * sd
    assert float(profiles.profile[1, 0, 0]) < float(profiles.profile[1, 0, 2])


def test_a_picture_of_draws(tmp_path):
    patches = correlated(4)
    draw_generated(patches, patches, FIELDS, tmp_path / "a" / "b.png", "title")
    from matplotlib.image import imread

    assert imread(tmp_path / "a" / "b.png")[..., :3].std() > 0.1


@pytest.mark.slow
def test_the_recipe_ends_in_a_card_that_says_how_good_it_is(tmp_path: Path, monkeypatch):
    from models.__main__ import app as models_app

    maps = correlated(12, size=128).astype(np.float32)
    monkeypatch.setattr(prior, "load", lambda channels, folder: Foregrounds(maps[:10], maps[10:], tuple(channels)))
    small = replace(prior.architecture(2), channels=(8, 8), blocks=(1, 1), embedding=8, linear_attention=(0,))
    monkeypatch.setattr(prior, "architecture", lambda channels: small)
    for name in ("NUM_MEASURED", "NUM_NEAREST"):
        monkeypatch.setattr(quality, name, 4)
    monkeypatch.setattr(quality, "draw_fields", lambda model, num, seed=0, num_evaluations=0: np.asarray(
        jax.random.normal(jax.random.key(seed), (num, *model.event_shape))))  # fmt: skip
    arguments = ["train", "cib_tsz", "--steps", "1", "--folder", str(tmp_path / "run"), "--output", str(tmp_path / "m")]
    result = CliRunner().invoke(models_app, arguments)
    assert result.exit_code == 0, result.output
    model = bd.load_model(tmp_path / "m")
    entries = model.card.entries
    assert scale_of(model, FIELDS, 2.0).channels == FIELDS
    assert np.array(entries["spectra"]).shape == (2, 2, 46)
    assert len(entries["rescaling"]["factors"]) == 2
    np.testing.assert_allclose(entries["quality"]["denoising"]["error_over_wiener"], 1.0, atol=0.05)
    assert prior.twin_of(model).event_shape == (2, 64, 64)
    card = json.loads((tmp_path / "m" / "card.json").read_text())
    old = {name: value for name, value in card["rescaling"].items() if name not in ("lowest", "highest")}
    (tmp_path / "m" / "card.json").write_text(json.dumps(card | {"rescaling": old}))
    with pytest.raises(ValueError, match="models measure writes them"):
        quality.draw_maps(bd.load_model(tmp_path / "m"), 2)
    result = CliRunner().invoke(models_app, ["measure", str(tmp_path / "m")])
    assert result.exit_code == 0, result.output
    assert bd.load_model(tmp_path / "m").card.entries["rescaling"] == entries["rescaling"]


def test_files_that_are_no_archives_are_refused(tmp_path):
    path = tmp_path / "maps.npy"
    np.save(path, np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="cannot be read .*one array without a name"):
        read_observation(path)
    np.savez(tmp_path / "maps.npz", maps=np.zeros((2, 64, 64)))
    truncated = tmp_path / "truncated.npz"
    truncated.write_bytes((tmp_path / "maps.npz").read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be read"):
        read_observation(truncated)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_observation(tmp_path / "absent.npz")
