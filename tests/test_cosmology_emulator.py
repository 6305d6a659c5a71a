"""The CMB emulator against CAMB itself, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.cosmology import cmb_spectrum
from bayesdiff.cosmology.build_emulator import chebyshev_interpolate, error_summary, evaluate, fit, scale_to_unit
from bayesdiff.cosmology.camb_table import BOX, LMAX, camb_spectrum, training_parameters
from bayesdiff.cosmology.camb_table import test_parameters as held_out_parameters
from bayesdiff.cosmology.emulator import LMIN, WEIGHTS, load_weights

CENTRE = (67.4, 0.0224)


@pytest.fixture
def copied_weights(tmp_path):
    """A copy of the weight file, with its card, that a test may damage."""
    for file in (WEIGHTS, WEIGHTS.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    return tmp_path / WEIGHTS.name


@pytest.mark.parametrize(("H0", "omega_b"), [CENTRE, (51.0, 0.055)])
def test_spectrum_agrees_with_camb(H0, omega_b):
    pytest.importorskip("camb")
    truth = camb_spectrum(H0, omega_b)[LMIN:]
    error = np.abs(np.asarray(cmb_spectrum(H0, omega_b)) / truth - 1)
    assert error[: 1500 - LMIN + 1].max() < 0.005
    assert error.max() < 0.01


@pytest.mark.slow
def test_gradient_agrees_with_camb_differences():
    pytest.importorskip("camb")
    ells = np.array([50, 200, 400, 700, 1000, 1400])
    jacobian = jax.jacfwd(lambda parameters: jnp.log(cmb_spectrum(parameters[0], parameters[1])))(jnp.array(CENTRE))
    for axis, step in enumerate((0.5, 0.0003)):
        move = step * np.eye(2)[axis]
        upper, lower = (np.log(camb_spectrum(*(np.array(CENTRE) + sign * move))[ells]) for sign in (1, -1))
        difference = (upper - lower) / (2 * step)
        # 2 % of the derivative, measured where it is largest: some multipoles cross zero.
        assert np.abs(jacobian[ells - LMIN, axis] - difference).max() < 0.02 * np.abs(difference).max()


def test_card_reports_the_required_accuracy():
    _, card = load_weights()
    assert card["error"]["num_spectra"] == 200
    assert card["error"]["p95_worst_ell_to_1500"] < 0.005
    assert card["camb"]["ns"] == 0.9649


def test_batches_and_scalars_agree():
    H0 = jnp.array([[55.0, 70.0, 85.0]])
    omega_b = jnp.array([[0.01], [0.05]])
    batch = cmb_spectrum(H0, omega_b)
    assert batch.shape == (2, 3, LMAX - LMIN + 1)
    np.testing.assert_allclose(batch[1, 2], cmb_spectrum(85.0, 0.05), rtol=1e-4)


def test_precision_follows_x64():
    single = cmb_spectrum(*CENTRE)
    with jax.enable_x64(True):
        double = cmb_spectrum(*CENTRE)
        assert double.dtype == jnp.float64
        np.testing.assert_allclose(single, double, rtol=2e-5)
        weights, _ = load_weights()
        arrays = {f"kernel_{i}": kernel for i, kernel in enumerate(weights.kernels)}
        arrays |= {f"bias_{i}": bias for i, bias in enumerate(weights.biases)}
        unit = scale_to_unit(np.array([CENTRE]))
        slow = evaluate(arrays | {"mean": weights.mean, "basis": weights.basis}, unit)
        np.testing.assert_allclose(np.log(double), slow[0], atol=1e-12)
    assert single.dtype == jnp.float32


@pytest.mark.parametrize(
    ("H0", "omega_b", "message"),
    [
        (49.0, 0.02, r"H0 = 49 is outside \[50, 90\]"),
        (70.0, 0.06, r"omega_b = 0.06 is outside \[0.0075, 0.0567\]"),
        (np.nan, 0.02, "H0 = nan is outside"),
        (np.array([60.0, 91.0, 95.0]), 0.02, r"H0 = 91 .*2 of 3 values are outside"),
    ],
)
def test_values_outside_the_box_are_refused(H0, omega_b, message):
    with pytest.raises(ValueError, match=message):
        cmb_spectrum(H0, omega_b)


def test_traced_values_outside_the_box_give_nan():
    spectra = jax.jit(cmb_spectrum)(jnp.array([49.0, 50.0, 90.0, 91.0]), 0.0567)
    finite = np.isfinite(np.asarray(spectra))
    assert not finite[[0, 3]].any()
    assert finite[[1, 2]].all()


@pytest.mark.parametrize("damage", ["changed", "truncated"])
def test_damaged_weights_are_refused(copied_weights, damage):
    content = bytearray(copied_weights.read_bytes())
    content[-7] ^= 1
    copied_weights.write_bytes(content if damage == "changed" else content[:-100])
    with pytest.raises(ValueError, match="not those of their card"):
        load_weights(copied_weights)


def test_damaged_card_is_refused(copied_weights):
    card_path = copied_weights.with_suffix(".json")
    card = json.loads(card_path.read_text())
    card_path.write_text(json.dumps(card | {"box": {"H0": [40, 100], "omega_b": [0.01, 0.05]}}))
    with pytest.raises(ValueError, match="is for the box"):
        load_weights(copied_weights)
    card_path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_weights(copied_weights)
    card_path.unlink()
    with pytest.raises(FileNotFoundError, match=r"cmb_emulator.json.*build_emulator"):
        load_weights(copied_weights)


def test_table_interpolation_is_exact_for_polynomials():
    unit = scale_to_unit(training_parameters())

    def polynomial(x):
        return np.stack([1 + x[:, 0] ** 5 * x[:, 1] ** 3, x[:, 0] - x[:, 1] ** 7], axis=-1)

    wanted = np.random.default_rng(0).uniform(-1, 1, size=(20, 2))
    np.testing.assert_allclose(chebyshev_interpolate(polynomial(unit), wanted), polynomial(wanted), atol=1e-12)


def test_fit_learns_a_smooth_function():
    rng = np.random.default_rng(0)
    unit = rng.uniform(-1, 1, size=(300, 2))
    truth = np.stack([3 + np.sin(2 * unit[:, 0] + unit[:, 1]), unit[:, 1] ** 2], axis=-1)
    arrays = fit(unit, truth, hidden=(16,), iterations=200)
    arrays |= {"mean": np.zeros(2), "basis": np.eye(2)}
    assert np.sqrt(np.mean((evaluate(arrays, unit) - truth) ** 2)) < 0.01


def test_error_summary_takes_the_worst_multipole():
    log_truth = np.zeros((100, LMAX - LMIN + 1))
    log_emulated = np.full_like(log_truth, 0.001)
    log_emulated[:10, 100] = 0.02
    log_emulated[:, 2000] = 0.03
    summary = error_summary(log_emulated, log_truth)
    np.testing.assert_allclose(summary["p95_worst_ell_to_1500"], np.expm1(0.02))
    np.testing.assert_allclose(summary["p95_worst_ell_to_2500"], np.expm1(0.03))
    np.testing.assert_allclose(summary["median"], np.expm1(0.001))


def test_test_parameters_fill_the_box():
    parameters = held_out_parameters()
    for column, (low, high) in zip(parameters.T, BOX.values(), strict=True):
        assert low <= column.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < column.max() <= high


def test_cosmology_imports_neither_camb_nor_pixell():
    code = "import sys, bayesdiff.cosmology; print(sorted({'camb', 'pixell'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
