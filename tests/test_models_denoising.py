"""Unconditional priors: maps split by box, the recipe from windows to a published card, draws that are copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import Predictive
from typer.testing import CliRunner

import bayesdiff as bd
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.networks.wiener import WienerDenoiser
from bayesdiff.windows import MapWindows
from models import draws
from models.__main__ import app
from models.denoising import data, prior
from models.denoising.data import MATTER_FILE, NUM_HELD_OUT_BOXES, SIZE, Maps, load_matter
from models.denoising.model import NOISE_BOUNDS, make_model
from models.denoising.pictures import draw_generated
from models.denoising.quality import NOISE_LEVELS, denoising_errors
from tests.diffusion_toys import red_power

SIDE, NUM_BOXES = 96, 7


def boxes(seed: int = 0) -> np.ndarray:
    """Periodic maps of strong contrast, (7, 96, 96)."""
    modes = np.fft.fft2(np.random.default_rng(seed).normal(size=(NUM_BOXES, SIDE, SIDE))) * np.sqrt(red_power(SIDE))
    return np.exp(0.5 * np.fft.ifft2(modes).real)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / MATTER_FILE, maps=boxes().astype(np.float32))
    return tmp_path


def test_maps_are_split_by_box_and_standardised(folder: Path) -> None:
    maps = load_matter(folder)
    assert maps.training.shape == (NUM_BOXES - NUM_HELD_OUT_BOXES, 1, SIDE, SIDE)
    assert (maps.training.mean(), maps.training.std()) == pytest.approx((0.0, 1.0), abs=1e-5)
    np.testing.assert_allclose(maps.held_out[:, 0] * maps.sd + maps.mean, boxes()[-NUM_HELD_OUT_BOXES:], rtol=1e-4)
    assert maps.patches().shape == (NUM_HELD_OUT_BOXES, 1, SIZE, SIZE)
    np.testing.assert_array_equal(maps.patches(held_out=False), maps.training[:, :, :SIZE, :SIZE])
    np.testing.assert_array_equal(maps.windows(held_out=True).maps, maps.held_out)


def test_holes_in_maps_are_refused(folder: Path) -> None:
    maps = boxes()
    maps[2, 5, 6:8] = -np.inf
    np.savez(folder / MATTER_FILE, maps=maps)
    with pytest.raises(ValueError, match="must be finite, got 2 pixels that are not"):
        load_matter(folder)


def test_dust_is_that_of_the_mixture(data_dir: Path) -> None:
    maps = data.load_dust(data_dir)
    assert maps.periodic == (False, True)
    assert maps.patches().shape == (32, 1, SIZE, SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("refined", [None, prior.Refinement(share=0.5, ancestral=True), prior.Refinement(spots=0.3)])
@pytest.mark.parametrize("varying", [False, True])
def test_the_recipe_ends_in_a_card_that_says_how_good_it_is(
    folder: Path, tmp_path: Path, monkeypatch, refined: prior.Refinement | None, varying: bool
) -> None:
    contrast = 1.1 if varying else 1.0
    kind = prior.MATTER._replace(refined=refined, varying=varying, contrast=contrast)
    monkeypatch.setattr(prior, "MATTER", kind)
    monkeypatch.setattr(prior, "NUM_DRAWS", 8)
    monkeypatch.setattr(data, "data_folder", lambda file: folder)
    small = replace(prior.ARCHITECTURE, channels=(8, 8), blocks=(1, 1), embedding=8)
    monkeypatch.setattr(prior, "ARCHITECTURE", small)
    monkeypatch.setattr(prior, "draw_fields", lambda model: draws.draw_fields(model, 4, num_evaluations=4))
    arguments = ["train", "matter", "--steps", "1", "--folder", str(tmp_path / "run"), "--output", str(tmp_path / "m")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    model = bd.load_model(tmp_path / "m")
    entries = model.card.entries
    assert entries["standardisation"] == pytest.approx({"mean": load_matter(folder).mean, "sd": load_matter(folder).sd})
    ratios = entries["quality"]["denoising"]["error_over_wiener"]
    assert len(ratios) == len(NOISE_LEVELS)
    # One step from a network that gives zero: the filter of spectra that vary, near that of their mean.
    assert np.all(np.array(ratios) < 1.3)
    assert entries["quality"]["draws"]["nearest_patch_draws"] > 0.1
    assert isinstance(model.denoiser, WienerDenoiser)
    np.testing.assert_allclose(model.denoiser.contrast, contrast)
    assert ("contrast" in entries) == varying
    assert ("refinement" in entries) == (tmp_path / "run" / "refined").exists() == (refined is not None)
    spots = refined is not None and refined.spots > 0.0
    assert (tmp_path / "run" / "refined_spots").exists() == spots
    if refined is not None:
        assert entries["refinement"]["share_of_own_draws"] == refined.share
        assert entries["refinement"]["draws"] == ("ancestral" if refined.ancestral else "flow")
        assert ("averaged_with_spots" in entries["refinement"]) == spots


def test_draws_are_brought_to_the_mean_and_power_of_windows(folder: Path) -> None:
    windows = load_matter(folder).windows()
    fields = jax.vmap(windows.draw)(jax.random.split(jax.random.key(0), 256))
    smooth = filter_field(fields, jnp.asarray(red_power(SIZE)) ** 0.2)
    dim = MapWindows(3.0 + smooth, SIZE, (False, False))
    mean, power = prior.matched(dim, windows).statistics()
    wanted_mean, wanted_power = windows.statistics()
    np.testing.assert_allclose(mean, wanted_mean, atol=0.05)
    np.testing.assert_allclose(power / wanted_power, 1.0, atol=0.2)
    assert np.abs(np.asarray(dim.statistics()[1] / wanted_power) - 1.0).max() > 0.5


def test_the_average_of_two_networks_has_the_mean_of_their_parameters(folder: Path, monkeypatch) -> None:
    small = replace(prior.ARCHITECTURE, channels=(8, 8), blocks=(1, 1), embedding=8)
    monkeypatch.setattr(prior, "ARCHITECTURE", small)
    monkeypatch.setattr(prior, "recalibrate", lambda denoiser, *arguments: replace(denoiser, contrast=jnp.asarray(2.0)))
    windows = load_matter(folder).windows()
    first, second = (prior.untrained_denoiser(windows, seed) for seed in (0, 1))
    assert prior.average([first], windows) is first
    mean = prior.average([first, second], windows)
    jax.tree.map(
        lambda m, a, b: np.testing.assert_allclose(m, 0.5 * (a + b), atol=1e-6),
        mean.params,
        first.params,
        second.params,
    )
    assert mean.contrast == 2.0  # measured anew


def twin() -> bd.DiffusionModel:
    return prior.make_prior(bd.GaussianDenoiser(jnp.asarray(red_power(SIZE))))


def test_the_wiener_filter_is_no_better_than_itself() -> None:
    fields = np.asarray(bd.DiffusionPrior(twin()).sample(jax.random.key(0), (3,)))
    errors = denoising_errors(twin(), fields)
    assert errors["error_over_wiener"] == [1.0] * len(NOISE_LEVELS)
    s = np.array(NOISE_LEVELS)[:, None, None]
    expected = np.mean(s**2 * red_power(SIZE) / (red_power(SIZE) + s**2), axis=(1, 2))
    np.testing.assert_allclose(errors["wiener"], expected, rtol=0.1)


def test_an_unknown_noise_level_is_inferred() -> None:
    """One patch of the twin tells its noise level; the posterior is where the closed form has it."""
    model = make_model(twin())
    truth = 0.7
    simulated = Predictive(model, num_samples=20)(jax.random.key(1))
    assert simulated["y"].shape == (20, 1, SIZE, SIZE)
    assert np.all((simulated["noise_level"] > NOISE_BOUNDS[0]) & (simulated["noise_level"] < NOISE_BOUNDS[1]))
    y = bd.NoisyDiffusion(twin(), truth).sample(jax.random.key(2))
    result = bd.sample(jax.random.key(3), model, y, algorithm=bd.Grid({"noise_level": 60}), progress=False)
    values = np.asarray(result["posterior"]["noise_level"])
    assert abs(values.mean() - truth) < 4 * values.std()
    assert values.std() < 0.03


def test_copies_of_the_training_maps_are_found(folder: Path) -> None:
    maps = load_matter(folder)
    training = maps.patches(held_out=False)
    statistics = draws.compare_draws(training[:, :, ::-1], training, training, maps.patches())
    assert statistics["nearest_patch_draws"] < 1e-2
    assert statistics["nearest_patch_held_out"] > 0.5
    assert statistics["sd_ratio"] == pytest.approx(1.0)
    np.testing.assert_allclose(statistics["power_ratio"], 1.0, rtol=1e-4)


def test_the_same_noise_gives_the_same_field_by_any_number_of_evaluations() -> None:
    few, many = (draws.draw_fields(twin(), 2, seed=4, num_evaluations=n) for n in (2, 6))
    np.testing.assert_allclose(few, many, atol=1e-4)


def test_a_picture_shows_both(folder: Path, tmp_path: Path) -> None:
    maps = load_matter(folder)
    draw_generated(maps.patches(held_out=False), maps.patches(), tmp_path / "a" / "b.png", "title")
    from matplotlib.image import imread

    assert imread(tmp_path / "a" / "b.png")[..., :3].std() > 0.1


def test_patches_of_maps() -> None:
    maps = Maps(np.zeros((1, 1, 64, 64)), np.arange(128.0 * 192).reshape(1, 1, 128, 192), (True, True), 0.0, 1.0)
    patches = maps.patches()
    assert patches.shape == (6, 1, 64, 64)
    np.testing.assert_array_equal(patches[4, 0], maps.held_out[0, 0, 64:, 64:128])
    assert len(draws.symmetries(patches)) == 48
