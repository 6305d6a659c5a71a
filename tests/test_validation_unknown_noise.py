"""Noise levels of held-out windows: which windows are cut, and by what the posteriors of each half are widened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from models.denoising.data import SIZE, Maps
from validation import unknown_noise
from validation.field_posteriors import Row

HELD_OUT = np.broadcast_to(np.arange(4 * SIZE, dtype=np.float32), (2, 1, 2 * SIZE, 4 * SIZE))
MAPS = Maps(HELD_OUT, HELD_OUT, (False, True), 0.0, 1.0)
Z = {"left": 2.0, "right": 0.5}


def test_windows_of_the_halves_share_no_pixel() -> None:
    left, right = unknown_noise.halves(MAPS)
    keys = jax.random.split(jax.random.key(0), 40)
    assert float(jax.vmap(left.draw)(keys).max()) < 2 * SIZE <= float(jax.vmap(right.draw)(keys).min())


def test_a_half_is_widened_by_what_the_other_half_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    exponents = {}

    def posteriors(folder: Path, name: str, bound: Any, y: np.ndarray, truths: np.ndarray) -> list[Row]:
        assert folder == tmp_path
        assert y.shape == (len(truths), 1, SIZE, SIZE)
        half = name.split("_")[2]
        exponent = getattr(bound, "exponent", None)
        if exponent is not None:
            exponents[half] = exponent
        sd = 0.01 / np.sqrt(exponent or 1.0)
        signs = np.where(np.arange(len(truths)) % 2, 1.0, -1.0)[:, None]
        means = truths + 0.01 * Z[half] * signs
        return [Row(mean.tolist(), [sd], [0.5], True, 20, 1.0) for mean in means]

    monkeypatch.setattr(unknown_noise, "posteriors", posteriors)
    monkeypatch.setattr(unknown_noise, "_estimate", lambda prior, bound: bound)
    prior: Any = None
    figures = {f.name: f for f in unknown_noise.cross_fitted(prior, MAPS, tmp_path)}
    # The right half is surer than it need be by a factor of two: no likelihood is raised to more than itself.
    assert exponents == {"left": 1.0, "right": pytest.approx(0.25)}
    judged = figures["unknown noise: noise_level: mean |z| of 100"]
    assert judged.value == pytest.approx(0.5 * (2.0 + 0.25))
    assert not judged.met
    plain = figures["unknown noise, bound as it is: noise_level: mean |z| of 100"]
    assert plain.value == pytest.approx(0.5 * (2.0 + 0.5))
    assert figures["unknown noise: exponent of the right half"].value.startswith("4.000 (")


def test_levels_are_those_of_the_noise() -> None:
    y, s = unknown_noise.in_noise(lambda keys: np.zeros((len(keys), 1, SIZE, SIZE)), jax.random.key(1), 30)
    assert unknown_noise.RANGE[0] < s.min() < s.max() < unknown_noise.RANGE[1]
    np.testing.assert_allclose(y.std(axis=(1, 2, 3)) / s, 1.0, atol=0.06)
