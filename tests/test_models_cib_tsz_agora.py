"""Patches of HEALPix maps: what the projection shows, what is refused."""

from __future__ import annotations

from pathlib import Path

import healpy
import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from astropy.io import fits
from typer.testing import CliRunner

from models.__main__ import app
from models.cib_tsz import agora
from models.cib_tsz.agora import (
    SkyMap,
    cluster_mask,
    cut_patches,
    patch_centres,
    read_clusters,
    read_map,
    source_mask,
    write_patches,
)
from models.cib_tsz.data import load
from models.cib_tsz.emission import jy_per_kelvin, tsz_kelvin
from models.cib_tsz.halos import angle_500

NSIDE, PIXEL, SIZE = 128, 30.0, 16
"""Coarse: pixels of 30 arcmin, patches of 8 degrees."""


def sphere() -> np.ndarray:
    """A smooth sky: x + 2 y + 3 z of the direction."""
    return np.array([1.0, 2.0, 3.0]) @ np.array(healpy.pix2vec(NSIDE, np.arange(12 * NSIDE**2)))


def write(path: Path, values: np.ndarray, **settings) -> Path:
    healpy.write_map(path, values, **{"coord": "C", "column_units": "Jy/sr", "dtype": np.float64, **settings})
    return path


def test_units_become_microkelvin(tmp_path):
    path = write(tmp_path / "cib.fits", sphere())
    sky = read_map(path, "Jy/sr", 150.0)
    assert sky.nside == NSIDE
    np.testing.assert_allclose(sky.values, 1e6 * sphere() / jy_per_kelvin(150.0), rtol=1e-6)
    y = write(tmp_path / "y.fits", 1e-6 * sphere(), column_units="y")
    np.testing.assert_allclose(read_map(y, "y", 150.0).values, tsz_kelvin(150.0) * sphere(), rtol=1e-6)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (50.0, 30.0), (200.0, -75.0)])
def test_a_patch_is_the_sky_around_its_centre(centre):
    """Of a linear function of the direction the patch is known in closed form, north up and east to the right."""
    sky = SkyMap(sphere(), NSIDE, "C")
    patch = cut_patches([sky], np.array([centre]), SIZE, PIXEL)[0, 0]
    offset = np.radians((np.arange(SIZE) + 0.5 - SIZE / 2) * PIXEL / 60.0)
    lon, lat = np.radians(centre)
    for row, column in ((3, 3), (8, 8), (12, 4)):
        # Rotate the tangent direction (1, east, north) to the centre: first up by the latitude, then by the longitude.
        x, e, n = np.array([1.0, offset[column], offset[row]]) / np.hypot(1.0, np.hypot(offset[column], offset[row]))
        up = np.array([np.cos(lat) * x - np.sin(lat) * n, e, np.sin(lat) * x + np.cos(lat) * n])
        turned = np.array([np.cos(lon) * up[0] - np.sin(lon) * up[1], np.sin(lon) * up[0] + np.cos(lon) * up[1], up[2]])
        assert patch[row, column] == pytest.approx(np.array([1.0, 2.0, 3.0]) @ turned, abs=0.06)


def test_masked_pixels_are_filled_and_holes_refused():
    values = sphere()
    centre = healpy.ang2pix(NSIDE, 50.0, 30.0, lonlat=True)
    values[centre] = np.nan
    sky = SkyMap(values, NSIDE, "C")
    with pytest.raises(
        ValueError, match=r"no holes, got \d+ of 16384 pixels without a value in the patch at longitude 50"
    ):
        cut_patches([sky], np.array([[50.0, 30.0]]), SIZE, PIXEL)
    mask = np.zeros(values.size, dtype=bool)
    mask[centre] = True
    patch = cut_patches([sky, sky, sky], np.array([[50.0, 30.0]]), SIZE, PIXEL, mask, fills=(0, 0, 1))
    assert np.isfinite(patch).all()
    np.testing.assert_array_equal(patch[0, 0], patch[0, 1])
    assert np.abs(patch[0, 0] - patch[0, 2]).max() > 0.1
    with pytest.raises(ValueError, match="a number for each of 1 maps, got 2"):
        cut_patches([sky], np.array([[50.0, 30.0]]), SIZE, PIXEL, mask, fills=(0, 1))
    assert cut_patches([sky], np.array([[120.0, 30.0]]), SIZE, PIXEL).shape == (1, 1, SIZE, SIZE)


def test_bright_sources_are_masked_by_their_flux():
    values = np.zeros(12 * NSIDE**2)
    area = 4.0 * np.pi / values.size
    fluxes = {10: 1.9e-3, 20: 2.1e-3}
    for pixel, flux in fluxes.items():
        values[pixel] = 1e6 * flux / area / jy_per_kelvin(150.0)
    assert np.flatnonzero(source_mask(SkyMap(values, NSIDE, "C"))).tolist() == [20]


def test_filled_pixels_follow_the_others_alone():
    """A whole patch is masked whose values are far from those of the rest of the sky."""
    values = np.random.default_rng(2).normal(5.0, 2.0, 12 * NSIDE**2)
    disc = healpy.query_disc(NSIDE, healpy.ang2vec(50.0, 30.0, lonlat=True), np.radians(60.0))
    mask = np.zeros(values.size, dtype=bool)
    mask[disc] = True
    sky = SkyMap(np.where(mask, 1e4, values), NSIDE, "C")
    patches = cut_patches([sky, sky], np.array([[50.0, 30.0]]), SIZE, PIXEL, mask)[0]
    assert patches.mean(axis=(1, 2)) == pytest.approx(5.0, abs=6 * 2.0 / (4 * SIZE))
    assert abs(np.corrcoef(patches[0].ravel(), patches[1].ravel())[0, 1]) < 6 / SIZE


def test_massive_clusters_are_masked_as_published(tmp_path):
    path = tmp_path / "clusters.csv"
    path.write_text(
        "name,redshift,longitude,latitude,m500\n1,0.3,50,30,5e14\n2,0.3,200,-10,2e14\n3,0.1,310,60,1.2e15\n"
    )
    clusters = read_clusters(path)
    assert clusters[:, 2].tolist() == [5e14, 2e14, 1.2e15]
    mask = cluster_mask(1024, clusters)
    vectors = healpy.ang2vec(*clusters[:, :2].T, lonlat=True)
    apart = np.arccos(np.clip(vectors @ np.array(healpy.pix2vec(1024, np.flatnonzero(mask))), -1.0, 1.0))
    nearest = apart.min(axis=0)
    assert (apart.argmin(axis=0) != 1).all()
    for index, share in ((0, np.log(5 / 3) / np.log(10 / 3)), (2, 1.0)):
        radius = (3.0 + 2.0 * share) * angle_500(clusters[index, 2], clusters[index, 3])
        assert nearest[apart.argmin(axis=0) == index].max() == pytest.approx(radius, abs=healpy.nside2resol(1024))


def test_the_angle_of_a_halo_is_that_of_astropy():
    cosmology = FlatLambdaCDM(H0=67.66, Om0=0.3111)
    density = 500.0 * cosmology.critical_density(0.4).to("solMass / Mpc3").value
    radius = (4e14 / (4.0 / 3.0 * np.pi * density)) ** (1.0 / 3.0)
    expected = radius / cosmology.angular_diameter_distance(0.4).value
    assert angle_500(4e14, 0.4) == pytest.approx(expected, rel=3e-3)


def test_catalogues_that_are_no_such_are_refused(tmp_path):
    path = tmp_path / "clusters.csv"
    path.write_text("longitude,latitude,mass\n1,2,3\n")
    with pytest.raises(ValueError, match="must have the columns longitude, .* got longitude, latitude, mass"):
        read_clusters(path)
    path.write_text("longitude,latitude,m500,redshift\n1,2,nan,0.3\n")
    with pytest.raises(ValueError, match="must have finite values, got 1 that are not"):
        read_clusters(path)
    path.write_text("longitude,latitude,m500,redshift\n1,2,3e14,0.3\n1,2,3e14,0\n1,95,3e14,0.3\n")
    with pytest.raises(ValueError, match="redshifts above 0, got 2 without, the first in row 1"):
        read_clusters(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_clusters(tmp_path / "none.csv")


def test_centres_tile_the_sphere():
    centres = patch_centres(10.0, lowest_latitude=20.0)
    assert np.abs(centres[:, 1]).min() >= 20.0
    vectors = healpy.ang2vec(*centres.T, lonlat=True)
    apart = np.degrees(np.arccos(np.clip(vectors @ vectors.T, -1.0, 1.0)) + 10.0 * np.eye(len(vectors)))
    assert apart.min() > 9.8
    assert len(patch_centres(10.0)) > 350


def test_maps_that_are_not_what_is_asked_for_are_refused(tmp_path):
    nested = write(tmp_path / "nested.fits", sphere(), nest=True)
    with pytest.raises(ValueError, match="ORDERING of .*nested.fits must be RING, got NESTED"):
        read_map(nested, "Jy/sr", 150.0)
    galactic = write(tmp_path / "galactic.fits", sphere(), coord="G")
    with pytest.raises(ValueError, match="COORDSYS of .*galactic.fits must be C, got G"):
        read_map(galactic, "Jy/sr", 150.0)
    assert read_map(galactic, "Jy/sr", 150.0, coordinates="G").coordinates == "G"
    for word, system in (("EQUATORIAL", "C"), ("ecliptic", "E")):
        with fits.open(galactic, mode="update") as file:
            file[1].header["COORDSYS"] = word
        assert read_map(galactic, "Jy/sr", 150.0, coordinates=system).coordinates == system
    with pytest.raises(ValueError, match="must be C, got E"):
        read_map(galactic, "Jy/sr", 150.0)
    unsaid = write(tmp_path / "unsaid.fits", sphere(), coord=None)
    with pytest.raises(ValueError, match="COORDSYS of .* must be C, got none"):
        read_map(unsaid, "Jy/sr", 150.0)
    assert read_map(unsaid, "Jy/sr", 150.0, coordinates_if_unsaid="C").coordinates == "C"
    with pytest.raises(ValueError, match="the unit of .* must be muK_CMB, got Jy/sr"):
        read_map(write(tmp_path / "cib.fits", sphere()), "muK_CMB", 150.0)
    with pytest.raises(ValueError, match="unit must be one of Jy/sr, .* got 'kelvin'"):
        read_map(nested, "kelvin", 150.0)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_map(tmp_path / "none.fits", "y", 150.0)


def test_holes_are_those_of_healpy(tmp_path):
    values = sphere()
    values[7], values[9] = healpy.UNSEEN, np.inf
    found = read_map(write(tmp_path / "holes.fits", values), "Jy/sr", 150.0).values
    assert np.flatnonzero(np.isnan(found)).tolist() == [7, 9]


def test_maps_must_belong_together():
    sky = SkyMap(sphere(), NSIDE, "C")
    centres = np.array([[0.0, 0.0]])
    with pytest.raises(ValueError, match="one coordinate system, got NSIDE 128 in C, NSIDE 128 in G"):
        cut_patches([sky, sky._replace(coordinates="G")], centres, SIZE, PIXEL)
    with pytest.raises(
        ValueError, match=r"no larger than those of the patches, 2 arcmin, got 27.48 arcmin at NSIDE 128"
    ):
        cut_patches([sky], centres, SIZE, 2.0)
    with pytest.raises(ValueError, match=r"mask must have the 196608 pixels of the maps, got \(5,\)"):
        cut_patches([sky], centres, SIZE, PIXEL, np.zeros(5, dtype=bool))
    with pytest.raises(ValueError, match=r"shape \(num, 2, H, W\), a channel per name, got \(3, 1, 8, 8\)"):
        write_patches(Path("none.npz"), np.zeros((3, 1, 8, 8)), ("cib_150", "tsz_150"))


def test_patches_for_the_recipe_by_the_command_line(tmp_path, monkeypatch):
    """Two maps to a file that the recipe loads; a map in other coordinates is refused in a sentence."""
    monkeypatch.setattr(agora, "_common", lambda maps, mask, pixel_arcmin: maps[0].nside)
    rng = np.random.default_rng(0)
    values = rng.normal(size=12 * NSIDE**2)
    cib = write(tmp_path / "cib.fits", 1e3 * values)
    tsz = write(tmp_path / "y.fits", 1e-6 * values, column_units="y")
    output = tmp_path / "patches.npz"
    arguments = ["agora", "--cib", str(cib), "--tsz", str(tsz), "--output", str(output), "--separation", "60"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    maps = load(("cib_150", "tsz_150"), output)
    assert maps.training.shape[1:] == (2, 64, 64)
    assert f"wrote {len(maps.training) + len(maps.held_out)} patches" in result.output
    result = CliRunner().invoke(app, [*arguments, "--coordinates", "G"])
    assert result.exit_code == 2
    assert "must be G, got C" in result.output
    catalogue = tmp_path / "clusters.csv"
    catalogue.write_text("longitude,latitude,m500,redshift\n0,-30,9e14,0.01\n")
    result = CliRunner().invoke(app, [*arguments, "--clusters", str(catalogue)])
    assert result.exit_code == 0, result.output
    assert np.abs(load(("cib_150", "tsz_150"), output).training - maps.training).max() > 1.0
    three = ["agora", "--cib-95", str(cib), "--cib", str(cib), "--output", str(output), "--separation", "60"]
    result = CliRunner().invoke(app, [*three, "--cib-857", str(cib)])
    assert result.exit_code == 0, result.output
    patches = load(("cib_95", "cib_150", "cib_857"), output).training
    ratio = jy_per_kelvin(150.0) / jy_per_kelvin(857.0)
    np.testing.assert_allclose(patches[:, 2], ratio * patches[:, 1], rtol=1e-3, atol=1e-3 * patches[:, 2].std())
    for wrong in (three, [*three, "--cib-857", str(cib), "--tsz", str(tsz)]):
        result = CliRunner().invoke(app, wrong)
        assert result.exit_code == 2
        assert "give --tsz, or both --cib-95 and --cib-857" in result.output
