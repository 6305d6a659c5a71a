"""Calibration of shipped priors: their simulators, and a campaign with checks of fields on a prior that is exact."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesdiff as bd
from bayesdiff.calibration import check_fields
from bayesdiff.diffusion.fourier import mode_power
from models.gaussian_fields.data import PARAMETER_BOUNDS
from models.linear_gaussian import make_twin, power_law
from validation.field_calibration import FIELD, calibrate, of_fields, of_study, own_field
from validation.mixture_calibration import CMB, mix
from validation.prior_calibration import in_noise, simulate
from validation.shipped_calibration import gaussian_field

SIZE = 64


def exact_prior() -> bd.DiffusionModel:
    denoiser = bd.GaussianDenoiser(jnp.asarray(power_law(SIZE, -2.0), jnp.float32))
    return bd.DiffusionModel(denoiser, bd.schedules.Cosine(log_snr_max=10.0), bd.WhiteNoise(), (1, SIZE, SIZE))


def test_a_mixture_holds_its_field_and_noise_of_its_level() -> None:
    prior = make_twin(SIZE)
    some = jax.vmap(partial(mix, prior, partial(own_field, prior)))(jax.random.split(jax.random.key(0), 24))
    contexts = jnp.stack([some["H0"], some["omega_b"]], axis=1)
    expected = some["sigma"][:, None, None] ** 2 * jax.vmap(prior.noise_power)(contexts)
    ratio = mode_power(some["y"] - some[FIELD])[:, 0] / expected
    assert float(ratio.mean()) == pytest.approx(1.0, abs=6 * float(np.sqrt(2.0 / ratio.size)))


def test_the_cmb_of_a_mixture_and_what_is_left_are_independent_and_have_their_powers() -> None:
    prior = make_twin(SIZE)
    noise: Any = prior.noise
    some = jax.vmap(partial(mix, prior, partial(own_field, prior)))(jax.random.split(jax.random.key(0), 24))
    powers = jax.vmap(noise.component_powers)(jnp.stack([some["H0"], some["omega_b"]], axis=1))
    cmb, rest = some[CMB], some["y"] - some[FIELD] - some[CMB]
    modes = [
        jnp.fft.fft2(field[:, 0], norm="ortho") / (some["sigma"][:, None, None] * jnp.sqrt(powers[name]))
        for name, field in ((CMB, cmb), ("instrument_noise", rest))
    ]
    tolerance = 6 * float(np.sqrt(2.0 / modes[0].size))
    for mode in modes:
        assert float(jnp.mean(jnp.abs(mode) ** 2)) == pytest.approx(1.0, abs=tolerance)
    assert float(jnp.mean((modes[0] * modes[1].conj()).real)) == pytest.approx(0.0, abs=tolerance)


def test_the_coverage_of_each_of_two_fields_is_told_by_its_name() -> None:
    rng = np.random.default_rng(2)
    truth, draws = rng.normal(size=(12, 2, 16, 16)), rng.normal(size=(12, 19, 2, 16, 16))
    draws[:, :, 1] *= 0.5  # the second is too sure
    checks = check_fields(truth, draws, num_bins=3, channels=("dust", "CMB"))
    found = {f.name: f.value for f in of_fields("own", checks, required=False)}
    right, wrong = (
        float(str(found[f"own: 68% coverage of modes, {name}: the band farthest from it"]).split()[0])
        for name in ("dust", "CMB")
    )
    assert right == pytest.approx(0.68, abs=0.05)
    assert wrong < 0.5
    assert "(CMB)" in checks.verdict()
    assert "(dust)" not in checks.verdict()
    assert checks.functionals.names[0] == "dust, power in band 0"
    with pytest.raises(ValueError, match="2 channels have as many names, got 1: dust"):
        check_fields(truth, draws, num_bins=3, channels=("dust",))


def test_fields_of_a_power_law_have_it() -> None:
    some = jax.vmap(gaussian_field)(jax.random.split(jax.random.key(1), 24))
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE, 1.0 / SIZE), np.fft.fftfreq(SIZE, 1.0 / SIZE)))
    shape = jnp.log(jnp.maximum(k, 1.0) / 8.0)
    expected = jnp.exp(some["log_A"][:, None, None] - some["n"][:, None, None] * shape)
    ratio = mode_power(some["x"])[:, 0] / expected
    assert float(ratio.mean()) == pytest.approx(1.0, abs=6 * float(np.sqrt(2.0 / ratio.size)))
    assert {"x", *PARAMETER_BOUNDS} == set(some)


def test_noise_of_unknown_level_is_white() -> None:
    prior = exact_prior()
    some = simulate(prior, lambda key: jnp.zeros((1, SIZE, SIZE)), jax.random.key(2))
    assert float(some["y"].std()) == pytest.approx(float(some["noise_level"]), rel=0.06)


@pytest.mark.slow
def test_a_campaign_on_an_exact_prior_passes_and_continues(tmp_path: Path) -> None:
    prior = exact_prior()
    campaign = in_noise(prior, lambda key: own_field(prior, key), "Exact", "A Gaussian prior.")
    campaign = campaign._replace(algorithm=bd.Grid({"noise_level": 256}, max_error=0.03), num=20, num_fields=4)
    study, fields = calibrate(campaign, tmp_path)
    for required in (True, False):
        figures = [*of_study("exact", study, required), *of_fields("exact", fields, required)]
        judged = [figure for figure in figures if figure.met is not None]
        assert len(judged) == (3 + len(fields.p_values()) if required else 0)
        assert [figure for figure in judged if not figure.met] == []
        assert "20 simulations" in figures[0].name
    assert (tmp_path / "report.html").exists()
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "fields").iterdir())]
    again, _ = calibrate(campaign, tmp_path)
    np.testing.assert_array_equal(again.ranks, study.ranks)
    assert before == [path.stat().st_mtime_ns for path in sorted((tmp_path / "fields").iterdir())]
