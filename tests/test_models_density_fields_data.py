"""Density maps: the files of a set, averaging, the split by simulation, the scale of a network, what is refused."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from models.density_fields import data
from models.density_fields.data import DensityMaps, Standardisation, degrade, load_maps, split
from models.density_fields.sets import simulation_set

NUM = 4


def densities(num: int = NUM, size: int = data.SIZE) -> np.ndarray:
    noise = np.random.default_rng(3).standard_normal((num * data.MAPS_PER_SIMULATION, size, size))
    return (10.0 ** (11.5 + 0.3 * noise)).astype(np.float32)


def write_set(folder: Path, maps: np.ndarray, rows: np.ndarray, suite: str = "JaxPM") -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"Maps_Mcdm_{suite}_LH_z=0.00.npy", maps)
    np.savetxt(folder / f"params_LH_{suite}.txt", rows)
    return folder


def rows(num: int = NUM, columns: int = 2) -> np.ndarray:
    low, high = np.array(list(data.PARAMETER_BOUNDS.values())).T
    values = np.random.default_rng(4).uniform(low, high, (num, 2))
    return np.hstack([values, np.ones((num, columns - 2))])


@pytest.mark.parametrize("columns", [2, 6])
def test_a_set_is_read_back_without_reading_it(tmp_path: Path, columns: int) -> None:
    maps = load_maps(write_set(tmp_path / "set", densities(), rows(columns=columns)))
    assert isinstance(maps.surface_density, np.memmap)
    np.testing.assert_array_equal(maps.surface_density, densities())
    np.testing.assert_allclose(maps.parameters, rows(), rtol=1e-12)
    np.testing.assert_array_equal(maps.map_parameters[data.MAPS_PER_SIMULATION - 1 :][:2], maps.parameters[:2])


def test_finer_maps_are_averaged_and_keep_their_mass(tmp_path: Path) -> None:
    fine = densities(2, 128)
    maps = load_maps(write_set(tmp_path / "set", fine, rows(2, 6), suite="Nbody_IllustrisTNG"))
    assert maps.surface_density.shape == (30, 64, 64)
    np.testing.assert_allclose(maps.surface_density[7, 5, 9], fine[7, 10:12, 18:20].mean(), rtol=1e-6)
    np.testing.assert_allclose(maps.surface_density.mean((1, 2)), fine.mean((1, 2)), rtol=1e-5)


def test_split_is_by_simulation_and_keeps_the_last() -> None:
    labelled = np.repeat(np.arange(NUM), data.MAPS_PER_SIMULATION)[:, None, None] * np.ones((1, 2, 2))
    training, held_out = split(DensityMaps(labelled, rows()), num_held_out=1)
    assert (training.num_simulations, held_out.num_simulations) == (NUM - 1, 1)
    assert set(training.surface_density.ravel()) == {0, 1, 2}
    assert set(held_out.surface_density.ravel()) == {3}
    np.testing.assert_array_equal(held_out.parameters, rows()[3:])


@pytest.mark.parametrize("num_held_out", [0, NUM])
def test_split_leaves_a_simulation_on_either_side(num_held_out: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 3 of the 4 simulations, got {num_held_out}"):
        split(DensityMaps(densities(size=2), rows()), num_held_out)


def test_the_scale_has_an_inverse_and_standardises(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = densities(size=8)
    monkeypatch.setattr(data, "CHUNK", 7)
    scale = Standardisation.of(maps)
    logarithm = np.log10(maps.astype(float))
    np.testing.assert_allclose(scale, (logarithm.mean(), logarithm.std()), rtol=1e-7)
    field = scale.field(maps)
    assert field.dtype == np.float32
    np.testing.assert_allclose([field.mean(), field.std()], [0.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(scale.surface_density(jnp.asarray(field)), maps, rtol=2e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, r"above zero, to have a logarithm, got 1 values that are not, the first at \(9, 3, 2\)"),
        (-1.0, "above zero"),
        (np.nan, r"must be finite, got 1 values that are not, the first at \(9, 3, 2\)"),
        (np.inf, "must be finite"),
    ],
)
def test_densities_without_a_logarithm_are_refused(value: float, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = densities(size=8)
    maps[9, 3, 2] = value
    monkeypatch.setattr(data, "CHUNK", 7)
    for refuse in (Standardisation.of, Standardisation(11.5, 0.3).field, lambda bad: degrade(bad, 4)):
        with pytest.raises(ValueError, match=message):
            refuse(maps)


@pytest.mark.parametrize(
    ("shape", "pixel", "message"),
    [
        ((1, 32, 32), data.PIXEL, r"64 x 64 pixels, got shape \(1, 32, 32\)"),
        ((64, 65), data.PIXEL, "64 x 64 pixels"),
        ((1, 64, 64), 0.5, "pixels must be 0.390625 Mpc/h wide, a box of 25 Mpc/h, got 0.5"),
    ],
)
def test_fields_of_another_size_or_pixel_are_refused(shape: tuple[int, ...], pixel: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.check_field(np.ones(shape), pixel)


def test_a_field_must_be_finite() -> None:
    field = np.zeros((1, 64, 64))
    data.check_field(field)
    field[0, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"finite, got 1 values that are not, the first at \(0, 2, 3\)"):
        data.check_field(field)


def test_sizes_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 x 8 pixels cannot be averaged to 3 x 3: 3 must divide 8"):
        degrade(densities(size=8), 3)
    with pytest.raises(ValueError, match="cannot be averaged to 64 x 64"):
        load_maps(write_set(tmp_path / "set", densities(size=8), rows()))
    with pytest.raises(ValueError, match=r"\(maps, size, size\), got float32 \(60, 8, 4\)"):
        load_maps(write_set(tmp_path / "oblong", densities(size=8)[..., :4], rows()))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 0.09, r"Omega_m must be in \[0.1, 0.5\], got 0.09 for simulation 2 and 1 such"),
        (1, 1.2, r"sigma_8 must be in \[0.6, 1\], got 1.2"),
        (1, np.nan, "sigma_8 must be in .*, got nan"),
    ],
)
def test_parameters_outside_the_box_are_refused(tmp_path: Path, column: int, value: float, message: str) -> None:
    wrong = rows()
    wrong[2, column] = value
    with pytest.raises(ValueError, match=message):
        load_maps(write_set(tmp_path / "set", densities(), wrong))


def test_parameters_must_fit_the_maps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 rows for 60 maps, got 5"):
        load_maps(write_set(tmp_path / "more", densities(), rows(5)))
    with pytest.raises(ValueError, match="got 1 column"):
        load_maps(write_set(tmp_path / "narrow", densities(), rows()[:, :1]))
    folder = write_set(tmp_path / "words", densities(), rows())
    (folder / "params_LH_JaxPM.txt").write_text("0.3 fiducial\n")
    with pytest.raises(ValueError, match="must be a table of numbers"):
        load_maps(folder)


def test_missing_and_ambiguous_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is none"):
        load_maps(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"must have a file Maps_Mcdm_\*_LH_z=0.00.npy, and has none"):
        load_maps(tmp_path)
    folder = write_set(tmp_path / "two", densities(), rows())
    with pytest.raises(FileNotFoundError, match="Maps_Mcdm_.*_CV_z"):
        load_maps(folder, "CV")
    write_set(folder, densities(), rows(), suite="IllustrisTNG")
    with pytest.raises(ValueError, match="must have one file .*IllustrisTNG.*JaxPM"):
        load_maps(folder)
    (folder / "Maps_Mcdm_IllustrisTNG_LH_z=0.00.npy").unlink()
    with pytest.raises(ValueError, match="must have one file params_LH"):
        load_maps(folder)


@pytest.mark.parametrize("length", [0, 40, 10_000])
def test_truncated_maps_are_refused(tmp_path: Path, length: int) -> None:
    folder = write_set(tmp_path / "set", densities(), rows())
    path = folder / "Maps_Mcdm_JaxPM_LH_z=0.00.npy"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="truncated or not a .npy file"):
        load_maps(folder)


def test_the_hypercube_is_one_and_the_same() -> None:
    chosen = simulation_set("LH", 40)
    low, high = np.array(list(data.PARAMETER_BOUNDS.values())).T
    cells = np.floor((chosen.parameters - low) / (high - low) * 40).astype(int)
    np.testing.assert_array_equal(np.sort(cells, axis=0), np.arange(40)[:, None] * np.ones(2, int))
    np.testing.assert_array_equal(chosen.parameters, simulation_set("LH", 40).parameters)
    assert len(set(chosen.seeds)) == 40


def test_the_other_sets_vary_what_they_should() -> None:
    one, cosmic = simulation_set("1P"), simulation_set("CV")
    assert len(set(one.seeds)) == 1
    assert len(set(cosmic.seeds)) == len(cosmic.seeds) == 300
    data.check_parameters(one.parameters)
    assert [len(set(column)) for column in one.parameters.T] == [11, 11]
    np.testing.assert_array_equal(one.parameters[:11, 1], 0.8)
    np.testing.assert_array_equal(one.parameters[11:, 0], 0.3)
    np.testing.assert_array_equal(cosmic.parameters, [[0.3, 0.8]] * 300)


def test_unknown_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="the sets are LH, CV, 1P, got 'EX'"):
        simulation_set("EX")
    with pytest.raises(ValueError, match="set 1P needs 22 simulations, got num=5"):
        simulation_set("1P", 5)
