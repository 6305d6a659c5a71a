"""Flat-sky power of a patch: normalisation, units, gradients, contexts, refusals."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.cosmology import (
    CMBPower,
    WhitePower,
    cmb_power,
    cmb_spectrum,
    dust_cmb_noise_components,
    power_from_card,
    simulate_gaussian,
)
from bayesdiff.cosmology.flat_sky import ARCMIN, patch_multipoles

SHAPE = (64, 64)
PIXEL = 8.0
COSMOLOGY = (67.4, 0.0224)


def test_multipoles_of_the_default_patch():
    ells = patch_multipoles(SHAPE, PIXEL)
    np.testing.assert_allclose(ells[0, 1], 42.19, atol=0.01)
    np.testing.assert_allclose(ells[32, 0], 1350)
    assert ells[0, 0] == 0


def test_power_in_physical_units_is_the_spectrum(x64):
    power = cmb_power(*COSMOLOGY, SHAPE, PIXEL, normalise=False)
    ells = patch_multipoles(SHAPE, PIXEL)
    log_spectrum = np.log(cmb_spectrum(*COSMOLOGY))
    expected = np.exp(np.interp(ells, np.arange(2, 2501), log_spectrum)) / (PIXEL * ARCMIN) ** 2
    expected[0, 0] = expected[0, 1]
    np.testing.assert_allclose(power, expected, rtol=1e-9)


def test_variance_of_a_pixel_is_that_of_the_sky(x64):
    # Above ell = 200 the sum over modes of a wide patch is the sum of (2 l + 1) C_l / 4 pi.
    size, pixel, beam = 512, 6.4, 20.0
    ells = np.arange(2, 2501)
    window = np.exp(-ells * (ells + 1) * (beam * ARCMIN) ** 2 / (8 * np.log(2)))
    terms = (2 * ells + 1) * np.asarray(cmb_spectrum(*COSMOLOGY)) * window / (4 * np.pi)
    power = np.asarray(cmb_power(*COSMOLOGY, (size, size), pixel, beam, normalise=False))
    inside = patch_multipoles((size, size), pixel) >= 199.5
    np.testing.assert_allclose(power[inside].sum() / size**2, terms[ells >= 200].sum(), rtol=0.005)


@pytest.mark.parametrize("beam", [0.0, 12.0])
@pytest.mark.parametrize("shape", [SHAPE, (1, 64, 64), (32, 48)])
def test_normalised_power_has_unit_mean_for_every_cosmology(shape, beam):
    power = cmb_power(jnp.array([50.0, 67.4, 90.0]), jnp.array([0.05, 0.0224, 0.0075]), shape, PIXEL, beam)
    assert power.shape == (3, *shape[-2:])
    np.testing.assert_allclose(power.mean((-2, -1)), 1.0, rtol=1e-5)
    fundamental = power[:, 0, 1] if shape[-1] >= shape[-2] else power[:, 1, 0]
    np.testing.assert_array_equal(power[:, 0, 0], fundamental)
    assert (power > 0).all()


def test_power_depends_on_the_multipole_alone():
    power = np.asarray(cmb_power(*COSMOLOGY, (32, 48), PIXEL))
    np.testing.assert_array_equal(power, np.roll(power[::-1, ::-1], (1, 1), (0, 1)))
    square = np.asarray(cmb_power(*COSMOLOGY, SHAPE, PIXEL))
    np.testing.assert_array_equal(square, square.T)


def test_beam_multiplies_the_physical_power(x64):
    fwhm = 10.0
    ells = patch_multipoles(SHAPE, PIXEL)
    ells[0, 0] = ells[0, 1]
    plain, beamed = (cmb_power(*COSMOLOGY, SHAPE, PIXEL, beam, normalise=False) for beam in (0.0, fwhm))
    window = np.exp(-0.5 * ells * (ells + 1) * (fwhm * ARCMIN) ** 2 / (8 * np.log(2)))
    np.testing.assert_allclose(beamed, plain * window**2, rtol=1e-6)


def test_gradient_agrees_with_finite_differences(x64):
    weights = np.random.default_rng(0).normal(size=SHAPE)

    def statistic(parameters):
        return jnp.sum(weights * jnp.log(cmb_power(parameters[0], parameters[1], SHAPE, PIXEL)))

    centre = jnp.array(COSMOLOGY)
    gradient = jax.grad(statistic)(centre)
    for axis, step in enumerate((1e-3, 1e-6)):
        move = step * jnp.eye(2)[axis]
        difference = (statistic(centre + move) - statistic(centre - move)) / (2 * step)
        np.testing.assert_allclose(gradient[axis], difference, rtol=1e-5)


def test_gradient_of_the_power_is_finite_in_every_mode():
    jacobian = jax.jacrev(lambda H0: cmb_power(H0, 0.0224, (16, 16), PIXEL))(67.4)
    assert np.isfinite(np.asarray(jacobian)).all()


def test_simulated_fields_have_the_power():
    power = cmb_power(*COSMOLOGY, (32, 32), PIXEL)
    fields = simulate_gaussian(jax.random.key(0), power, (3000, 32, 32))
    measured = np.mean(np.abs(np.fft.fft2(np.asarray(fields), norm="ortho")) ** 2, axis=0)
    ratio = measured / np.asarray(power)
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / 3000)


def test_power_traces_once():
    count = 0

    @jax.jit
    def traced(context):
        nonlocal count
        count += 1
        return CMBPower(SHAPE, PIXEL)(context)

    traced(jnp.array([60.0, 0.02]))
    traced(jnp.array([80.0, 0.03]))
    assert count == 1


def test_contexts_of_every_form_agree():
    power = CMBPower((1, *SHAPE), PIXEL)
    expected = cmb_power(*COSMOLOGY, SHAPE, PIXEL)
    H0, omega_b = COSMOLOGY
    for context in (COSMOLOGY, list(COSMOLOGY), jnp.array(COSMOLOGY), {"omega_b": omega_b, "H0": H0, "sigma": 1.0}):
        np.testing.assert_allclose(power(context), expected, rtol=1e-4)
    batch = jnp.broadcast_to(jnp.array(COSMOLOGY), (3, 1, 2))
    assert power(batch).shape == (3, 1, *SHAPE)
    assert jax.vmap(jax.vmap(power))(batch).shape == (3, 1, *SHAPE)
    assert power.isotropic
    assert power.context_names == ("H0", "omega_b")
    assert power.context_bounds == {"H0": (50.0, 90.0), "omega_b": (0.0075, 0.0567)}


def test_context_of_the_wrong_kind_is_refused():
    power = CMBPower(SHAPE, PIXEL)
    with pytest.raises(ValueError, match=r"\['omega_b'\] not among \['H0'\]"):
        power({"H0": 70.0})
    with pytest.raises(ValueError, match="got 3 values"):
        power(jnp.ones(3))
    with pytest.raises(ValueError, match="H0 = 40 is outside"):
        power((40.0, 0.02))


def test_white_power_ignores_the_context():
    power = WhitePower(SHAPE, 0.04)
    np.testing.assert_array_equal(power(COSMOLOGY), np.full(SHAPE, 0.04, np.float32))
    np.testing.assert_array_equal(power(), power(None))
    assert power.isotropic
    assert power.context_names == ()


def test_components_of_the_study():
    components = dust_cmb_noise_components((1, *SHAPE), PIXEL, beam_fwhm_arcmin=10.0)
    assert list(components) == ["cmb", "instrument_noise"]
    np.testing.assert_allclose(components["cmb"](COSMOLOGY).mean(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(components["instrument_noise"](COSMOLOGY), 0.01, rtol=1e-6)


def test_powers_are_hashable_and_survive_their_card():
    for power in dust_cmb_noise_components([1, *SHAPE], PIXEL, 5.0).values():
        again = power_from_card(json.loads(json.dumps(power.to_card())))
        assert again == power
        assert hash(again) == hash(power)
    with pytest.raises(ValueError, match="No power of type 'dust'"):
        power_from_card({"type": "dust"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (64, 64), "pixel_arcmin": 5.0}, r"too small: .*ell = 3055.*use pixels of 6.11 arcmin or more"),
        ({"shape": (64,), "pixel_arcmin": 8.0}, "shape must be"),
        ({"shape": (64, 64), "pixel_arcmin": -8.0}, "pixel_arcmin must be positive"),
        ({"shape": (64, 64), "pixel_arcmin": 8.0, "beam_fwhm_arcmin": -1.0}, "beam_fwhm_arcmin must be"),
        ({"shape": (64, 64), "pixel_arcmin": 200.0}, "too large for the flat sky"),
    ],
)
def test_impossible_patches_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CMBPower(**arguments)
