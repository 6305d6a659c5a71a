from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from astropy.io import fits

import bayesdiff as bd
from models.dust_cmb import observation as obs
from models.dust_cmb.maps import cut_patches, read_map
from models.linear_gaussian import make_twin

SIZE = 16
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def twin() -> bd.DiffusionModel:
    return make_twin(SIZE)


@pytest.fixture(scope="module")
def wide_map() -> np.ndarray:
    """A map with large-scale structure, in a small unit far from zero, so that standardising it matters."""
    rng = np.random.default_rng(1)
    x = np.cumsum(np.cumsum(rng.standard_normal((70, 90)), axis=0), axis=1)
    return 0.02 + 1e-4 * x / x.std()


def test_mixture_is_the_sum_of_its_known_parts(twin: bd.DiffusionModel) -> None:
    mixed = obs.simulate_from_prior(KEY, twin, H0=75.0, omega_b=0.03, sigma=0.4)
    truth = mixed.truth
    assert truth is not None
    assert mixed.y.shape == (1, SIZE, SIZE)
    assert mixed.y.dtype == np.float32
    assert (truth["H0"], truth["omega_b"], truth["sigma"]) == (75.0, 0.03, 0.4)
    np.testing.assert_allclose(mixed.y, truth["dust"] + truth["cmb"] + truth["instrument_noise"], atol=1e-5)
    assert twin.schedule.sigma(truth["t_star"]) / twin.schedule.alpha(truth["t_star"]) == pytest.approx(0.4, rel=1e-4)
    again = obs.simulate_from_prior(KEY, twin, H0=75.0, omega_b=0.03, sigma=0.4)
    np.testing.assert_array_equal(mixed.y, again.y)


def test_simulated_parts_have_the_power_of_the_model(twin: bd.DiffusionModel) -> None:
    """chi^2 of all modes of 64 mixtures: the CMB of unit variance and noise of a tenth of it, both scaled by sigma."""
    sigma, num = 0.5, 64
    dust = np.zeros((SIZE, SIZE))
    mixed = [obs.mix(k, dust, twin, sigma=sigma).truth or {} for k in jax.random.split(KEY, num)]
    noise = twin.noise
    assert isinstance(noise, bd.StationaryNoise)
    powers = noise.component_powers(twin.context_array((obs.FIDUCIAL["H0"], obs.FIDUCIAL["omega_b"])))
    for name, power in powers.items():
        modes = np.abs(np.fft.fft2(np.stack([m[name][0] for m in mixed]), norm="ortho")) ** 2
        ratio = (modes / (sigma**2 * np.asarray(power))).mean()
        # num x SIZE^2 real numbers determine the mean, each of variance 2.
        assert abs(ratio - 1.0) < 4.0 * np.sqrt(2.0 / (num * SIZE**2))


def test_patches_are_standardised_by_the_whole_map_and_numbered_by_rows(wide_map: np.ndarray) -> None:
    patches = cut_patches(wide_map, 4.0, size=SIZE, pixel_arcmin=8.0)
    coarse = wide_map.reshape(35, 2, 45, 2).mean(axis=(1, 3))
    standard = (coarse - coarse.mean()) / coarse.std()
    assert patches.fields.shape == (2, 2, 1, SIZE, SIZE)
    assert (patches.mean, patches.sd) == pytest.approx((coarse.mean(), coarse.std()))
    # 35 = 2 x 16 + 3 and 45 = 2 x 16 + 13: one row and six columns are left out at the low edges.
    np.testing.assert_allclose(patches.choose(1)[0], standard[1:17, 22:38], atol=1e-5)
    np.testing.assert_allclose(patches.choose(2)[0], standard[17:33, 6:22], atol=1e-5)
    np.testing.assert_array_equal(patches.choose((1, 0)), patches.choose(2))
    with pytest.raises(ValueError, match=r"patch must be a number from 0 to 3 .*2 x 2 disjoint patches.*, got 4"):
        patches.choose(4)


def test_real_map_gives_four_patches(data_dir: Path) -> None:
    found = read_map(f"{data_dir / 'dust_planck2013_ebv_north.npz'}:ngp")
    patches = cut_patches(found.values, 2.37)
    assert patches.shape == (148, 148)
    assert patches.fields.shape == (2, 2, 1, 64, 64)
    assert np.isfinite(patches.fields).all()


def test_map_from_every_kind_of_file(tmp_path: Path, wide_map: np.ndarray, twin: bd.DiffusionModel) -> None:
    np.save(tmp_path / "map.npy", wide_map)
    np.savez(tmp_path / "one.npz", dust=wide_map)
    np.savez(tmp_path / "two.npz", dust=wide_map, mask=np.ones(3))
    header = fits.Header({"CDELT1": -4.0 / 60, "CDELT2": 4.0 / 60})
    image = fits.ImageHDU(wide_map[None], header, name="DUST")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "map.fits")
    specs = ["map.npy", "one.npz", "two.npz:dust", "map.fits", "map.fits:DUST"]
    seen = [obs.observe_map(KEY, tmp_path / spec, twin, 4.0, patch=3) for spec in specs]
    for mixed in seen[1:]:
        np.testing.assert_array_equal(mixed.y, seen[0].y)
    assert "patch 3" in seen[0].description
    assert seen[0].truth is not None
    from_header = obs.observe_map(KEY, tmp_path / "map.fits", twin, None, patch=3)
    np.testing.assert_allclose(from_header.y, seen[0].y, atol=1e-5)
    with pytest.raises(ValueError, match="must be the 4 arcmin of its header, got 5 arcmin"):
        obs.observe_map(KEY, tmp_path / "map.fits", twin, 5.0)
    with pytest.raises(ValueError, match="pixel size of map.npy is needed"):
        obs.observe_map(KEY, tmp_path / "map.npy", twin, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npy", None, "no file"),
        ("map.png", b"\x89PNG", r"must be a .npy, .npz or FITS file, got '.png'"),
        ("cut.npy", "truncated", "cannot be read"),
        ("cut.npz", "truncated", "cannot be read"),
        ("cut.fits", "truncated", "cannot be read"),
        ("text.npy", b"no array at all", "cannot be read"),
        ("empty.npy", b"", "cannot be read"),
        ("objects.npy", np.array([{}]), "cannot be read"),
        ("complex.npy", np.ones((4, 4), complex), "must hold real numbers, got complex128"),
        ("two.npz", {"a": np.ones(2), "b": np.ones(2)}, "holds the arrays a, b: say which"),
        ("two.npz:c", {"a": np.ones(2), "b": np.ones(2)}, "has no array 'c': it holds a, b"),
        ("one.npy:a", np.ones((4, 4)), "one array without a name, got the name 'a'"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, name: str, content, message: str) -> None:
    path = tmp_path / name.partition(":")[0]
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif content == "truncated":
        values = np.random.default_rng(0).standard_normal((40, 40))
        whole = tmp_path / f"whole{path.suffix}"
        if path.suffix == ".fits":
            fits.PrimaryHDU(values).writeto(whole)
        else:
            {".npy": np.save, ".npz": np.savez}[path.suffix](whole, values)
        path.write_bytes(whole.read_bytes()[:7000])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_map(tmp_path / name)


def _spoilt(value: float) -> np.ndarray:
    field = np.random.default_rng(0).standard_normal((SIZE, SIZE))
    field[2, 5] = field[3, 1] = value
    return field


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (_spoilt(np.nan), rf"got 2 NaN or infinite of {SIZE**2}, the first at \((0, )?2, 5\)"),
        (_spoilt(np.inf), rf"got 2 NaN or infinite of {SIZE**2}, the first at \((0, )?2, 5\)"),
        (_spoilt(-1.6375e30), "got 2 masked"),
    ],
)
def test_bad_pixels_are_counted_and_located(
    tmp_path: Path, twin: bd.DiffusionModel, field: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "y.npy", field)
    with pytest.raises(ValueError, match=message):
        obs.read_observation(tmp_path / "y.npy", twin)
    with pytest.raises(ValueError, match=message):
        obs.observe_map(KEY, tmp_path / "y.npy", twin, 8.0)
    with pytest.raises(ValueError, match=message):
        obs.mix(KEY, field, twin)


def test_observation_is_taken_as_it_is(tmp_path: Path, twin: bd.DiffusionModel) -> None:
    y = np.random.default_rng(0).standard_normal((SIZE, SIZE))
    np.save(tmp_path / "y.npy", y)
    np.save(tmp_path / "plane.npy", y[None])
    mixed = obs.read_observation(tmp_path / "y.npy", twin, 8.0)
    np.testing.assert_allclose(mixed.y[0], y, rtol=1e-6)
    np.testing.assert_array_equal(obs.read_observation(tmp_path / "plane.npy", twin).y, mixed.y)
    assert mixed.truth is None
    assert len(mixed.notes) == 1
    np.save(tmp_path / "magnitudes.npy", 1e-3 * y)
    assert "check that its unit" in obs.read_observation(tmp_path / "magnitudes.npy", twin).notes[1]


@pytest.mark.parametrize(
    ("shape", "got"),
    [((SIZE, SIZE + 1), "17"), ((2, SIZE, SIZE), "2, 16"), ((SIZE - 1, SIZE - 1), "15"), ((256,), "256")],
)
def test_wrong_shapes_are_refused(tmp_path: Path, twin: bd.DiffusionModel, shape: tuple[int, ...], got: str) -> None:
    np.save(tmp_path / "y.npy", np.random.default_rng(0).standard_normal(shape))
    with pytest.raises(ValueError, match=rf"must have shape \(16, 16\) or \(1, 16, 16\), got .*{got}"):
        obs.read_observation(tmp_path / "y.npy", twin)


@pytest.mark.parametrize(
    ("shape", "pixel", "message"),
    [
        ((40, 31), 4.0, r"needs a map of at least 32 x 32 pixels of 4 arcmin, got 40 x 31"),
        ((40, 40), 10.0, "must be at most those of the model, 8 arcmin, got 10 arcmin"),
        ((40, 40), -1.0, "must be positive"),
        ((40, 40), float("nan"), "must be positive"),
        ((2, 40, 40), 4.0, r"must have shape \(height, width\), got \(2, 40, 40\)"),
    ],
)
def test_unfit_maps_are_refused(
    tmp_path: Path, twin: bd.DiffusionModel, shape: tuple[int, ...], pixel: float, message: str
) -> None:
    np.save(tmp_path / "map.npy", np.random.default_rng(0).standard_normal(shape))
    with pytest.raises(ValueError, match=message):
        obs.observe_map(KEY, tmp_path / "map.npy", twin, pixel)


def test_constant_maps_are_refused(tmp_path: Path, twin: bd.DiffusionModel) -> None:
    np.save(tmp_path / "map.npy", np.full((40, 40), 0.1))
    with pytest.raises(ValueError, match=r"must vary from pixel to pixel, got 0\.1"):
        obs.observe_map(KEY, tmp_path / "map.npy", twin, 4.0)
    np.save(tmp_path / "y.npy", np.zeros((SIZE, SIZE)))
    with pytest.raises(ValueError, match="must vary from pixel to pixel"):
        obs.read_observation(tmp_path / "y.npy", twin)


def test_wrong_pixel_size_of_an_observation_is_refused(tmp_path: Path, twin: bd.DiffusionModel) -> None:
    np.save(tmp_path / "y.npy", np.random.default_rng(0).standard_normal((SIZE, SIZE)))
    with pytest.raises(ValueError, match="must be those of the model, 8 arcmin, got 4 arcmin"):
        obs.read_observation(tmp_path / "y.npy", twin, 4.0)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"H0": 49.0}, r"H0 must lie in \[50, 90\]"),
        ({"omega_b": 0.2}, r"omega_b must lie in \[0.0075, 0.0567\]"),
        ({"sigma": 0.01}, r"sigma must lie in \[0.1, 1.2\]"),
        ({"sigma": float("nan")}, "sigma must lie in"),
    ],
)
def test_parameters_outside_the_prior_are_refused(
    twin: bd.DiffusionModel, truth: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        obs.simulate_from_prior(KEY, twin, **truth)


def test_other_models_are_refused() -> None:
    plain = bd.DiffusionModel(bd.GaussianDenoiser(np.ones((8, 8))), bd.schedules.Cosine(), bd.WhiteNoise(), (1, 8, 8))
    with pytest.raises(ValueError, match="the dust prior must have square fields"):
        obs.simulate_from_prior(KEY, plain)
