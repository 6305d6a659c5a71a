"""Mocks of CIB and tSZ: halos against the mass function, profiles and spectra against integrals, masks and filters."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.integrate import quad

from models.cib_tsz import emission, mock, pressure
from models.cib_tsz.data import generate, load
from models.cib_tsz.halos import ARCMIN, NUM_SLICES, REDSHIFTS, light_cone
from models.cib_tsz.observation import CIB_RATIO
from models.cib_tsz.treatment import Clusters, Sky, degrade, fill_masks, low_pass, mask_of, mask_radius, multipoles

PIXEL = ARCMIN


def test_number_of_halos_is_the_integral_of_the_mass_function():
    """Slices and bins against a quadrature over mass and redshift, by colossus itself."""
    cone = light_cone()
    from colossus.cosmology import cosmology
    from colossus.lss import mass_function

    cosmos = cosmology.setCosmology("planck18", persistence="")
    log_m = np.linspace(14.0, 15.8, 200)

    def per_redshift(z: float) -> float:
        number = mass_function.massFunction(10**log_m * cone.h, z, mdef="200c", model="tinker08", q_out="dndlnM")
        above = np.trapezoid(number, log_m * np.log(10.0))
        return above * cosmos.comovingDistance(0.0, z) ** 2 * 2997.92458 / cosmos.Ez(z)

    z = np.linspace(*REDSHIFTS, 120)
    expected = np.trapezoid([per_redshift(float(x)) for x in z], z)
    assert cone.density[:, cone.log_mass > 14.0].sum() == pytest.approx(expected, rel=0.03)
    assert cone.z.shape == (NUM_SLICES,)
    assert np.all(np.diff(cone.bias, axis=1) > 0)


def test_placed_halos_are_poisson_with_the_expected_mean():
    cone, size, rng = light_cone(), 128, np.random.default_rng(0)
    number, area = 6, (size * PIXEL) ** 2
    flat, steps = np.zeros((size, size)), 8
    found = [mock.place_halos(rng, cone, number, flat, 0.0, PIXEL) for _ in range(steps)]
    gas = cone.log_mass >= mock.LOG_SMALLEST_GAS
    expected = steps * area * cone.density[number, gas].sum()
    counted = sum(len(clusters.m500) for _, clusters in found)
    assert abs(counted - expected) < 4.0 * np.sqrt(expected)
    masses = np.concatenate([clusters.m500 for _, clusters in found])
    heavy = cone.log_mass >= 13.7
    edge = np.exp(np.interp(13.7, cone.log_mass, np.log(cone.m500[number])))
    expected = steps * area * cone.density[number, heavy].sum()
    assert abs((masses > edge).sum() - expected) < 4.0 * np.sqrt(expected) + 0.03 * expected
    # Everywhere alike: halves of the patch hold the same number, but for chance.
    rows = np.concatenate([clusters.position[:, 0] for _, clusters in found])
    assert abs((rows < size / 2).sum() - counted / 2) < 4.0 * np.sqrt(counted) / 2


def test_halos_follow_the_density_with_their_bias():
    cone, size, rng = light_cone(), 128, np.random.default_rng(1)
    number = 6
    g = np.where(np.arange(size)[:, None] < size // 2, 0.1, -0.1) * np.ones(size)
    clusters = [mock.place_halos(rng, cone, number, g, 0.01, PIXEL)[1] for _ in range(10)]
    upper = np.concatenate([c.position[:, 0] for c in clusters]) < size / 2
    gas = cone.log_mass >= mock.LOG_SMALLEST_GAS
    bias = np.average(cone.bias[number, gas], weights=cone.density[number, gas])
    share = np.exp(0.1 * bias) / (np.exp(0.1 * bias) + np.exp(-0.1 * bias))
    assert abs(upper.mean() - share) < 4.0 * np.sqrt(share * (1 - share) / len(upper))
    assert share > 0.5 + 8.0 * np.sqrt(0.25 / len(upper))


def test_integrated_pressure_is_the_published_one():
    """Arnaud et al. 2010, equation 25: I(5) = 1.1037, and 2.925e-5 I Mpc^2 at 3e14 solar masses for h = 0.7."""
    sphere = 4.0 * np.pi * quad(lambda x: pressure.profile(np.array(x)) * x**2, 0.0, pressure.EDGE)[0]
    assert pressure.transform(np.array(1e-3)) == pytest.approx(sphere, rel=1e-4)
    assert 3.0 / (4.0 * np.pi) * sphere == pytest.approx(1.1037, rel=2e-3)
    true_mass = 3e14 / pressure.HYDROSTATIC
    assert pressure.pressure_500(np.array(true_mass), np.array(1.0), 0.7) == pytest.approx(1.65e-3)
    # R_500 of 3e14 solar masses at a critical density of 1.36e11 solar masses / Mpc^3 for h = 0.7.
    r500 = (3e14 / (4.0 / 3.0 * np.pi * 500.0 * 2.7754e11 * 0.49)) ** (1.0 / 3.0)
    amplitude = pressure.amplitude(np.array(true_mass), np.array(r500 / 0.8 ** (1.0 / 3.0)), np.array(1.0), 0.7)
    assert amplitude * r500**2 * sphere == pytest.approx(2.925e-5 * 1.1037, rel=0.01)


def test_painted_cluster_has_the_projected_profile():
    theta, size = np.exp(-64 * mock.SIZE_STEP), 256
    clusters = Clusters(np.array([[128.5, 128.5]]), np.array([1e-5]), np.array([theta]), np.array([1e14]))
    y = mock.compton_y(clusters, size, PIXEL)
    assert y.sum() * PIXEL**2 == pytest.approx(1e-5 * theta**2 * pressure.transform(np.array(1e-3)), rel=1e-3)
    for pixels in (10, 20, 40):
        x = pixels * PIXEL / theta
        line = quad(lambda s, x=x: pressure.profile(np.hypot(x, s)), 0.0, np.sqrt(pressure.EDGE**2 - x**2), limit=200)
        assert y[128 + pixels, 128] == pytest.approx(1e-5 * 2.0 * line[0], rel=0.02)
        assert y[128, 128 - pixels] == pytest.approx(y[128 + pixels, 128], rel=1e-6)


def planck(nu_ghz: float, temperature: float) -> float:
    """Brightness of a black body [Jy/sr], by scipy's constants."""
    from scipy.constants import c, h, k

    nu = 1e9 * nu_ghz
    return 2.0 * h * nu**3 / c**2 / np.expm1(h * nu / (k * temperature)) * 1e26


@pytest.mark.parametrize("nu", [95.0, 150.0, 857.0])
def test_units_are_those_of_a_black_body(nu):
    step = 1e-4
    slope = (planck(nu, emission.T_CMB + step) - planck(nu, emission.T_CMB - step)) / (2.0 * step)
    assert emission.jy_per_kelvin(nu) == pytest.approx(slope, rel=1e-6)


def test_tsz_changes_sign_at_217_ghz():
    assert emission.tsz_kelvin(150.0) / emission.T_CMB == pytest.approx(-0.953, abs=1e-3)
    assert emission.tsz_kelvin(217.0) < 0 < emission.tsz_kelvin(218.0)


def test_greybody_is_that_of_dust():
    """Ratios of a modified black body of 30 K below the break, a power law beyond, one at the top."""
    z, temperature = np.array(1.5), np.array(30.0)
    low, high = (emission.spectrum(nu, z, temperature) for nu in (150.0, 857.0))
    expected = (150.0 / 857.0) ** emission.BETA * planck(150.0 * 2.5, 30.0) / planck(857.0 * 2.5, 30.0)
    assert low / high == pytest.approx(expected, rel=1e-5)
    x = np.geomspace(0.1, 40.0, 4001)
    phi = emission.greybody(x)
    assert phi.max() == pytest.approx(1.0, abs=1e-5)
    slope = np.gradient(np.log(phi), np.log(x))
    np.testing.assert_allclose(slope[x > 1.01 * emission.BREAK], -emission.GAMMA, atol=1e-6)
    assert np.all(slope[x < 0.99 * emission.BREAK] > -emission.GAMMA)


def test_satellites_are_the_integral_of_the_subhalo_mass_function():
    mass = 3e14

    def number(log_m: float) -> float:
        ratio = np.exp(log_m) / mass
        return 0.3 * ratio**-0.7 * np.exp(-9.9 * ratio**2.5)

    low, high = np.log(10**11.3), np.log(mass)
    expected = quad(number, low, high)[0]
    light = quad(lambda m: number(m) * float(emission.galaxy_luminosity(np.exp(m))), low, high)[0]
    found = emission.satellites(np.array([mass]))
    assert found[0][0] == pytest.approx(expected, rel=0.02)
    assert found[1][0] == pytest.approx(light, rel=0.02)


@pytest.fixture(scope="module")
def skies() -> list[Sky]:
    """Small skies, 64 pixels of 1 arcmin."""
    size = mock.SIZE
    mock.SIZE = 32
    try:
        return [mock.paint(np.random.default_rng([5, index])) for index in range(6)]
    finally:
        mock.SIZE = size


def test_light_adds_up_to_the_mean_that_sets_its_scale(skies):
    mean = np.mean([sky.maps[2].mean() for sky in skies]) * 1e-6 * emission.jy_per_kelvin(857.0)
    assert mean == pytest.approx(emission.MEAN_857, rel=0.1)
    tsz = np.stack([sky.maps[3] for sky in skies])
    assert tsz.mean() < -0.5
    assert np.mean(((tsz - tsz.mean()) / tsz.std()) ** 3) < -2.0


def test_frequencies_of_the_cib_are_nearly_one_map(skies):
    cib_95, cib_150 = (np.concatenate([sky.maps[i].ravel() - sky.maps[i].mean() for sky in skies]) for i in (0, 1))
    assert cib_95 @ cib_150 / (cib_150 @ cib_150) == pytest.approx(CIB_RATIO, abs=0.01)
    assert np.corrcoef(cib_95, cib_150)[0, 1] > 0.98
    far = np.corrcoef(np.concatenate([sky.maps[2].ravel() - sky.maps[2].mean() for sky in skies]), cib_150)[0, 1]
    assert 0.7 < far < 0.96


def test_clusters_are_masked_by_their_mass():
    assert mask_radius(3e14, 2.0) == 10.0
    assert mask_radius(3e14, 8.0) == pytest.approx(24.0)
    assert mask_radius(2e15, 8.0) == pytest.approx(40.0)
    position = np.array([[2.5, 60.5], [30.5, 30.5]])
    clusters = Clusters(position, np.ones(2), np.full(2, 5.0 * ARCMIN), np.array([3e14, 2.9e14]))
    sky = Sky(np.zeros((4, 64, 64)), np.array([[40, 41]]), clusters)
    masked = mask_of(sky, PIXEL)
    assert masked[2, 60]
    assert masked[60, 60]
    assert not masked[30, 30]
    assert masked[40, 41]
    # A disc of 15 arcmin about the massive one alone, across the edge, and one pixel of a source.
    assert masked.sum() == pytest.approx(np.pi * 15.0**2 + 1, rel=0.02)


def test_masked_pixels_have_the_statistics_of_the_map():
    rng = np.random.default_rng(0)
    clusters = Clusters(np.array([[60.5, 60.5]]), np.ones(1), np.array([12.0 * ARCMIN]), np.array([3e14]))
    maps = rng.normal(3.0, 2.0, (4, 128, 128))
    maps[:, 60, 60] = 1e4
    sky = Sky(maps, np.empty((0, 2), dtype=int), clusters)
    masked, filled = mask_of(sky, PIXEL), fill_masks(rng, sky, PIXEL)
    num = masked.sum()
    assert abs(filled[3][masked].mean() - 3.0) < 4.0 * 2.0 / np.sqrt(num)
    assert filled[3][masked].std() == pytest.approx(2.0, rel=4.0 / np.sqrt(2 * num))
    np.testing.assert_array_equal(filled[:, ~masked], maps[:, ~masked])
    assert np.corrcoef(filled[0][masked], filled[1][masked])[0, 1] > 0.999
    assert abs(np.corrcoef(filled[0][masked], filled[3][masked])[0, 1]) < 0.2


def test_waves_below_the_low_pass_survive_and_those_beyond_do_not():
    size = 128
    rows = np.arange(size)[:, None] * np.ones(size)
    slow, fast = (np.cos(2.0 * np.pi * n * (rows + 0.0) / size) for n in (5, 60))
    ell = multipoles(size, PIXEL)
    assert ell[5, 0] < 1000
    assert ell[60, 0] > 9000
    np.testing.assert_allclose(low_pass(slow, PIXEL), slow, atol=1e-4)
    assert np.abs(low_pass(fast, PIXEL)).max() < 1e-12
    np.testing.assert_allclose(degrade(slow, 2), slow[::2, ::2], atol=1e-12)
    assert np.abs(degrade(fast, 2)).max() < 1e-12


def test_a_set_is_made_once_and_split_by_mock(tmp_path, monkeypatch):
    made = []

    def simulate(seed: int, index: int) -> np.ndarray:
        made.append(index)
        return np.full((len(mock.CHANNELS), mock.SIZE, mock.SIZE), index, np.float32)

    monkeypatch.setattr(mock, "simulate", simulate)
    said: list[str] = []
    generate(4, tmp_path, seed=3, say=said.append)
    (tmp_path / "mock_0002.npy").unlink()
    generate(12, tmp_path, seed=3, say=said.append)
    assert made == [0, 1, 2, 3, 2, *range(4, 12)]
    assert said[-1] == "12 of 12 mocks"
    maps = load(("tsz_150", "cib_95"), tmp_path)
    assert maps.training.shape == (10, 2, mock.SIZE, mock.SIZE)
    assert maps.held_out[:, 0, 0, 0].tolist() == [10.0, 11.0]
    assert maps.patches().shape == (8, 2, 64, 64)
    assert json.loads((tmp_path / "settings.json").read_text())["recipe"]["LOW_PASS"] == 4900.0
    with pytest.raises(ValueError, match="must hold mocks of seed 4 and of this recipe"):
        generate(12, tmp_path, seed=4)


def test_a_mock_is_the_same_every_time(monkeypatch):
    monkeypatch.setattr(mock, "SIZE", 16)
    first, again, other = (mock.simulate(1, index) for index in (0, 0, 1))
    assert first.shape == (4, 16, 16)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_bad_sets_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="at least 6 mocks, got 0: run 'python -m models mock'"):
        load(("cib_150",), tmp_path)
    with pytest.raises(ValueError, match="channels must be among cib_95, .*, got tsz"):
        load(("cib_150", "tsz"), tmp_path)
    for index in range(6):
        np.save(tmp_path / f"mock_{index:04d}.npy", np.zeros((4, mock.SIZE, mock.SIZE), np.float32))
    np.save(tmp_path / "mock_0003.npy", np.full((4, mock.SIZE, mock.SIZE), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"mock_0003.npy must hold finite maps"):
        load(("cib_150",), tmp_path)


def test_patches_of_a_file_must_be_those_of_the_prior(tmp_path):
    path, patches = tmp_path / "agora.npz", np.zeros((12, 2, 64, 64), np.float32)

    def write(**entries) -> None:
        np.savez(path, **{"patches": patches, "channels": ["cib_150", "tsz_150"], "pixel_arcmin": 2.0, **entries})

    write()
    assert load(("cib_150", "tsz_150"), path).training.shape == (10, 2, 64, 64)
    with pytest.raises(ValueError, match="channels tsz_150, cib_150 in this order, got cib_150, tsz_150"):
        load(("tsz_150", "cib_150"), path)
    with pytest.raises(ValueError, match="channels cib_95, cib_150, cib_857 in this order, got cib_150, tsz_150"):
        load(("cib_95", "cib_150", "cib_857"), path)
    write(pixel_arcmin=1.4)
    with pytest.raises(ValueError, match="must be of 2.0 arcmin, got 1.4"):
        load(("cib_150", "tsz_150"), path)
    write(patches=patches[:, :1])
    with pytest.raises(ValueError, match=r"must have shape .* got \(12, 1, 64, 64\)"):
        load(("cib_150", "tsz_150"), path)
    write(patches=np.where(np.arange(64) == 3, np.nan, patches))
    with pytest.raises(ValueError, match="1536 .*(NaN|infinite)"):
        load(("cib_150", "tsz_150"), path)
    np.savez(path, patches=patches)
    with pytest.raises(ValueError, match="must hold patches, channels and pixel_arcmin, got patches"):
        load(("cib_150", "tsz_150"), path)
