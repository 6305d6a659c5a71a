"""Training on toy maps: it learns, it survives being killed, and it cuts windows where it may."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.schedules import Cosine
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from bayesdiff.recalibration import recalibrate
from bayesdiff.training import TrainingSettings, settings_card, train
from bayesdiff.windows import MapWindows
from tests.diffusion_toys import CONTEXT_BOUNDS, coloured_noise, filtered, red_power

SIZE = 16
NETWORK = UNetConfig(3, 1, channels=(8, 16), blocks=(1, 1), embedding=16, attention=False)
SCHEDULE, NOISE = Cosine(8.0), coloured_noise(SIZE)
SETTINGS = TrainingSettings(
    steps=60, batch_size=8, learning_rate=4e-3, warmup_steps=5, ema_decay=0.9, checkpoint_every=15, log_every=10
)


def intermittent_maps(num: int = 4, size: int = 32) -> np.ndarray:
    """Two-valued maps, the sign of a smooth Gaussian field: as far from Gaussian as a field of that power can be."""
    white = np.random.default_rng(0).normal(size=(num, 1, size, size))
    return np.sign(filtered(white, np.sqrt(red_power(size, -6.0)))).astype(np.float32)


def toy() -> tuple[MapWindows, WienerDenoiser]:
    windows = MapWindows(jnp.asarray(intermittent_maps()), SIZE)
    mean, power = windows.statistics(num=1024)
    low, high = zip(*CONTEXT_BOUNDS, strict=True)
    return windows, initialise(0, GaussianDenoiser(power, mean), NETWORK, low, high, num_bands=4)


def quiet(line: str) -> None:
    """Drop a line of progress."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    lines: list[str] = []
    return train(*toy(), SCHEDULE, NOISE, SETTINGS, folder, lines.append), folder, lines


def test_training_lowers_the_loss_below_the_wiener_filter(trained):
    denoiser, folder, lines = trained
    windows, untrained = toy()
    before = np.asarray(recalibrate(untrained, windows, SCHEDULE, NOISE, num=128).residual_variance.values)
    after = np.asarray(denoiser.residual_variance.values)
    log_s = np.asarray(denoiser.residual_variance.log_s)
    inside = np.abs(log_s) < 4.0
    # The Wiener filter of the measured power has unit error: windows, power, noise and target are consistent.
    assert before[inside].mean() == pytest.approx(1.0, abs=0.05)
    middle = np.abs(log_s) < 1.5
    # In the bands that hold the signal, which the loss is weighted by.
    assert after[middle, :2].mean() < 0.9 * before[middle, :2].mean()
    progress = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in progress] == [10, 20, 30, 40, 50, 60]
    # Of the bands of log-SNR, where noise and signal are comparable.
    assert np.mean(progress[-1]["bands"][2:5]) < 0.95 * np.mean(progress[0]["bands"][2:5])
    assert len(progress[0]["bands"]) == 8
    assert len(lines) == 6
    assert "step 60/60" in lines[-1]


@pytest.mark.slow
def test_recalibration_restores_the_scale_of_the_network(trained):
    """Of a network whose output is too large by a factor the gain is smaller by it: the denoiser is what it was."""
    denoiser, _, _ = trained
    windows, _ = toy()
    last = denoiser.params["last"]
    loud = denoiser.with_params(denoiser.params | {"last": {name: 1.5 * value for name, value in last.items()}})
    measured = [recalibrate(d, windows, SCHEDULE, NOISE, num=64, pool_size=512) for d in (denoiser, loud)]
    gains = [np.asarray(d.gain.values) for d in measured]
    free = (gains[0] > 0.8) & (gains[0] < 1.45)
    assert free.sum() > 10
    np.testing.assert_allclose(gains[1][free], gains[0][free] / 1.5, rtol=0.05)


def test_killed_training_continues_to_the_same_bits(trained, tmp_path):
    denoiser, _, _ = trained

    class Killed(Exception):  # noqa: N818
        pass

    def kill(line: str) -> None:
        if "step 40/" in line:
            raise Killed

    with pytest.raises(Killed):
        train(*toy(), SCHEDULE, NOISE, SETTINGS, tmp_path, kill)
    assert (tmp_path / "checkpoint.safetensors").exists()
    resumed: list[str] = []
    again = train(*toy(), SCHEDULE, NOISE, SETTINGS, tmp_path, resumed.append)
    assert "step 40/" in resumed[0]  # from the checkpoint of step 30
    assert jax.tree.structure(again.params) == jax.tree.structure(denoiser.params)
    for old, new in zip(jax.tree.leaves(denoiser), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(new, old)


def test_finished_training_only_loads(trained):
    denoiser, folder, _ = trained

    def forbidden(line: str) -> None:
        raise AssertionError(line)

    again = train(*toy(), SCHEDULE, NOISE, SETTINGS, folder, forbidden)
    for old, new in zip(jax.tree.leaves(denoiser.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(new, old)


def test_checkpoint_of_another_network_is_refused(trained):
    _, folder, _ = trained
    windows, untrained = toy()
    other = initialise(
        0, untrained.reference, replace(NETWORK, channels=(8, 8)), untrained.context_low, untrained.context_high
    )
    with pytest.raises(ValueError, match="belongs to another network or optimiser"):
        train(windows, other, SCHEDULE, NOISE, SETTINGS, folder, quiet)


def test_damaged_checkpoint_is_refused(trained, tmp_path):
    _, folder, _ = trained
    content = (folder / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is truncated or damaged"):
        train(*toy(), SCHEDULE, NOISE, SETTINGS, tmp_path, quiet)


def positions(periodic: tuple[bool, bool], rows: int = 12, columns: int = 20, size: int = 8) -> np.ndarray:
    """Row and column of every pixel of 600 windows of a map, shape (600, 2, size, size)."""
    grid = np.arange(rows)[:, None] + 100 * np.arange(columns)[None, :]
    windows = MapWindows(jnp.asarray(grid[None, None].astype(np.float32)), size, periodic)
    drawn = np.asarray(jax.jit(jax.vmap(windows.draw))(jax.random.split(jax.random.key(0), 600)))[:, 0].astype(int)
    return np.stack([drawn % 100, drawn // 100], axis=1)


def steps_along(coordinate: np.ndarray, length: int) -> set[int]:
    """How a coordinate changes from one pixel to the next, along either axis, up to sign."""
    changes = np.concatenate([np.diff(coordinate, axis=axis).ravel() for axis in (1, 2)])
    return set(np.abs(changes).tolist())


@pytest.mark.parametrize("periodic", [(False, False), (False, True), (True, False), (True, True)], ids=str)
def test_windows_wrap_only_around_periodic_axes(periodic):
    drawn = positions(periodic)
    for axis, length in enumerate((12, 20)):
        wrapped = length - 1
        expected = {0, 1, wrapped} if periodic[axis] else {0, 1}
        assert steps_along(drawn[:, axis], length) == expected
        assert set(np.unique(drawn[:, axis])) == set(range(length))  # every pixel is used, the last ones too


def test_windows_are_flipped_and_turned():
    down, across = (
        np.diff(positions((False, False)), axis=axis)[:, :, 0, 0] for axis in (2, 3)
    )  # (N, 2) per pixel step
    assert {tuple(step) for step in down.tolist()} == {(1, 0), (-1, 0), (0, 1), (0, -1)}
    handedness = down[:, 0] * across[:, 1] - down[:, 1] * across[:, 0]
    assert 0.4 < np.mean(handedness > 0) < 0.6


def test_held_out_rows_are_never_seen():
    maps = np.zeros((2, 1, 40, 32), dtype=np.float32)
    maps[:, :, 24:] = np.nan  # held out; the caller hands over the rest
    windows = MapWindows(jnp.asarray(maps[:, :, :24]), SIZE, periodic=(False, True))
    drawn = jax.vmap(windows.draw)(jax.random.split(jax.random.key(1), 400))
    assert np.isfinite(drawn).all()
    assert np.isfinite(windows.statistics(num=128)[1]).all()


def test_windows_larger_than_the_maps_are_refused():
    windows = MapWindows(jnp.zeros((1, 1, 12, 32)), SIZE)
    with pytest.raises(ValueError, match="a window of 16 pixels does not fit in maps of 12 x 32 pixels"):
        windows.draw(jax.random.key(0))


def test_statistics_are_symmetric_and_those_of_the_maps():
    white = np.random.default_rng(3).normal(size=(64, 1, SIZE, SIZE))
    power = red_power(SIZE)
    stretched = power * (
        1.0 + 0.5 * np.cos(2 * np.pi * np.fft.fftfreq(SIZE))[:, None]
    )  # not symmetric in rows and columns
    maps = 1.7 + filtered(white, np.sqrt(stretched))
    mean, found = MapWindows(jnp.asarray(maps.astype(np.float32)), SIZE).statistics(num=4096)
    assert mean.shape == (1, 1, 1)
    assert found.shape == (1, SIZE, SIZE)
    assert float(mean[0, 0, 0]) == pytest.approx(maps.mean(), abs=0.01)
    found = np.asarray(found[0], dtype=np.float64)
    np.testing.assert_allclose(found, found.T, rtol=1e-4)
    np.testing.assert_allclose(found, np.roll(found[::-1], 1, axis=0), rtol=1e-3)
    # Whole periodic maps: shifts leave the periodogram alone, so only the choice of maps varies.
    periodogram = (np.abs(np.fft.fft2(maps - maps.mean(), norm="ortho")) ** 2).mean(axis=(0, 1))
    expected = 0.5 * (periodogram + periodogram.T)
    expected = 0.5 * (expected + np.roll(expected[::-1], 1, axis=0))
    assert np.median(np.abs(found / expected - 1.0)) < 0.03
    assert found.mean() == pytest.approx(maps.var(), rel=0.03)


def test_settings_are_written_to_cards():
    assert TrainingSettings(**settings_card(SETTINGS)) == SETTINGS


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("pool_size", -1), ("spots", 1.5), ("decay_fraction", -0.1)])
def test_settings_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        TrainingSettings(**{name: value})


def test_refinement_goes_slower():
    settings = TrainingSettings(steps=1000, learning_rate=2e-3, warmup_steps=90)
    refined = settings.refinement(0.5)
    assert (refined.steps, refined.learning_rate, refined.warmup_steps) == (500, 1e-3, 30)
    assert replace(settings, steps=2).refinement(0.1).steps == 1
