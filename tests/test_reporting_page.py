from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection
from matplotlib.image import AxesImage
from PIL import Image

from bayesdiff import reporting
from bayesdiff.reporting.densities import credible_levels, smoothed_density, smoothed_density_2d
from bayesdiff.reporting.style import png_bytes

PIXELS, PIXEL_ARCMIN, CHAINS, DRAWS, KEPT = 64, 8.0, 4, 500, 10
BOUNDS = {"H0": (50.0, 90.0), "omega_b": (0.0075, 0.0567), "sigma": (0.1, 1.2)}
TRUTH = {"H0": 67.4, "omega_b": 0.0224, "sigma": 0.6}
WIDTHS = {"H0": 6.0, "omega_b": 0.005, "sigma": 0.02}
SECTIONS = ("summary", "fields", "spectra", "minkowski", "corner", "traces", "ranks", "run")


def _power(slope: float, cutoff: float = np.inf) -> np.ndarray:
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(PIXELS), np.fft.fftfreq(PIXELS))) * PIXELS
    k[0, 0] = 1.0
    power = k**slope * np.exp(-((k / cutoff) ** 2))
    power[0, 0] = 0.0
    return power / power.mean()


def _gaussian(rng: np.random.Generator, power: np.ndarray, count: int) -> np.ndarray:
    white = rng.standard_normal((count, PIXELS, PIXELS))
    return np.fft.ifft2(np.fft.fft2(white) * np.sqrt(power)).real


def separation(seed: int = 3) -> xr.DataTree:
    """A Gaussian dust and CMB mixture with exact (Wiener) posterior draws of both, and chains of the parameters."""
    rng = np.random.default_rng(seed)
    sigma = TRUTH["sigma"]
    powers = [_power(-3.0), sigma**2 * _power(-1.2, 14.0), np.full((PIXELS, PIXELS), (0.1 * sigma) ** 2)]
    total = sum(powers)
    parts = [_gaussian(rng, p, 1 + CHAINS * KEPT) for p in powers]
    mixed = np.sum(parts, axis=0)
    residual = np.fft.fft2(mixed[0] - mixed[1:])
    fields = {}
    for name, power, part in zip(("dust", "cmb", "instrument_noise"), powers, parts, strict=True):
        drawn = part[1:] + np.fft.ifft2(residual * power / total).real
        fields[name] = (
            ("chain", "draw", "channel", "height", "width"),
            drawn.reshape(CHAINS, KEPT, 1, PIXELS, PIXELS),
        )
    posterior = {}
    shared = rng.standard_normal((CHAINS, DRAWS))
    for name, width in WIDTHS.items():
        noise = rng.standard_normal((CHAINS, DRAWS))
        draws = TRUTH[name] + width * (0.4 + 0.75 * shared + 0.66 * noise)
        posterior[name] = (("chain", "draw"), np.clip(draws, *BOUNDS[name]))
    stats = {
        "diverging": (("chain", "draw"), np.zeros((CHAINS, DRAWS), dtype=bool)),
        "energy": (("chain", "draw"), rng.standard_normal((CHAINS, DRAWS))),
        "acceptance_rate": (("chain", "draw"), np.full((CHAINS, DRAWS), 0.85)),
    }
    coords = {"chain": np.arange(CHAINS)}
    plane = ("channel", "height", "width")
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(posterior, coords=coords | {"draw": np.arange(DRAWS)}),
            "sample_stats": xr.Dataset(stats, coords=coords | {"draw": np.arange(DRAWS)}),
            "observed_data": xr.Dataset({"y": (plane, mixed[:1])}),
            "fields": xr.Dataset(fields, coords=coords | {"draw": np.arange(0, DRAWS, DRAWS // KEPT)}),
            "truth": xr.Dataset(
                {"dust": (plane, parts[0][:1]), "cmb": (plane, parts[1][:1]), **{k: ((), v) for k, v in TRUTH.items()}}
            ),
        }
    )
    tree.attrs = {
        "algorithm": "MarginalSurrogate",
        "settings": json.dumps({"num_design": 48, "tolerance": 0.3}),
        "seed": 7,
        "versions": json.dumps({"bayesdiff": "0.1.0", "jax": "0.12.0"}),
        "model_hash": "3f2a9c",
        "compile_seconds": 21.5,
        "sampling_seconds": 143.2,
        "status": "complete",
        "surrogate_rms": 0.17,
        "surrogate_converged": True,
    }
    return tree


def prior_draws() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(*bound, size=4000) for name, bound in BOUNDS.items()}


class _Page(HTMLParser):
    """Collects ids, image data, external references and whether every tag that opens also closes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.images: list[bytes] = []
        self.external: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        for key in ("src", "href"):
            if given.get(key, "#")[:1] != "#" and not given[key].startswith("data:"):
                self.external.append(given[key])
        if tag == "img":
            assert given["alt"]
            assert given["src"].startswith("data:image/png;base64,")
            self.images.append(base64.b64decode(given["src"].split(",", 1)[1], validate=True))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _read(path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert not page.open
    assert not page.external
    return page


def _assert_picture(png: bytes) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=float)
    assert min(pixels.shape) > 150
    assert pixels.std() > 8
    assert np.mean(pixels < 250) > 0.02
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert np.mean(edges > 200) > 0.98, "something is cut off at the edge of the picture"


def _pixels(image: AxesImage) -> np.ndarray:
    return np.ma.getdata(np.ma.asarray(image.get_array()))


@pytest.fixture(scope="module")
def result() -> xr.DataTree:
    return separation()


def test_page_has_every_section_and_real_pictures(result, tmp_path):
    path = reporting.write_report(
        result,
        tmp_path / "new" / "run",
        title="Dust & CMB <seed 3>",
        pixel_arcmin=PIXEL_ARCMIN,
        bounds=BOUNDS,
        prior_draws=prior_draws(),
        notes=["Simulated with <b>known</b> truth."],
    )
    page = _read(path)
    assert set(SECTIONS) <= set(page.ids)
    assert len(page.images) == 6
    for png in page.images:
        _assert_picture(png)
    text = "".join(page.text)
    for expected in (
        "Dust & CMB <seed 3>", "Simulated with <b>known</b> truth.", "Converged: 4 chains of 500 draws", "Can be used",
        "num_design = 48", "21.5 s", "2 min 23 s", "3f2a9c", "H0 [km/s/Mpc]", "equal-tailed",
    ):  # fmt: skip
        assert expected in text
    assert (path.parent / "verdict.txt").read_text(encoding="utf-8").startswith("Converged")
    assert (path.parent / "summary.csv").read_text().startswith("parameter,unit,mean,sd")
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "summary.csv", "verdict.txt"]


def test_page_without_maps_and_truth_says_so(result, tmp_path):
    bare = xr.DataTree.from_dict({"posterior": result["posterior"].to_dataset()})
    page = _read(reporting.write_report(bare, tmp_path, title="bare", pixel_arcmin=PIXEL_ARCMIN))
    assert len(page.images) == 3
    assert "".join(page.text).count("No maps were drawn") == 3
    assert "truth" not in "".join(page.text).split("Joint posterior")[1].split("How to redo")[0]


def test_page_of_an_interrupted_run_with_two_draws(result, tmp_path):
    short = xr.DataTree.from_dict(
        {
            "posterior": result["posterior"].to_dataset().isel(draw=slice(0, 2)),
            "fields": result["fields"].to_dataset().isel(chain=slice(0, 1), draw=slice(0, 1)),
        }
    )
    short.attrs = {"status": "interrupted", "settings": "not json <"}
    page = _read(reporting.write_report(short, tmp_path, title="short", pixel_arcmin=PIXEL_ARCMIN))
    assert len(page.images) == 6
    text = "".join(page.text)
    assert "Do not use: only 2 draws per chain" in text
    assert "interrupted" in text
    assert "not json <" in text


def test_field_panels_share_the_scales_that_should_be_shared(result):
    figure = reporting.field_panels(result, PIXEL_ARCMIN)
    maps = [a.images[0] for a in figure.axes if a.images and _pixels(a.images[0]).shape == (PIXELS, PIXELS)]
    assert len(maps) == 1 + 2 * 5
    assert np.allclose(maps[0].get_extent(), (0, 64 * 8 / 60, 0, 64 * 8 / 60))
    for row in (maps[1:6], maps[6:11]):
        assert len({image.get_clim() for image in row[:4]}) == 1
        assert row[4].get_clim() != row[0].get_clim()
        assert row[4].get_clim()[0] >= 0
    low, high = maps[6].get_clim()
    assert low == -high
    truth = np.asarray(result["truth"]["dust"].values)[0]
    np.testing.assert_array_equal(_pixels(maps[1]), truth)
    mean = np.asarray(result["fields"]["dust"].mean(("chain", "draw")).values)[0]
    np.testing.assert_allclose(_pixels(maps[2]), mean, atol=1e-12)


def test_spectra_bands_hold_the_draws(result):
    figure = reporting.spectra_figure(result, PIXEL_ARCMIN)
    truth, observed = (line for line in figure.axes[0].lines if line.get_label() in ("truth", "observed total"))
    ell = np.asarray(truth.get_xdata())
    assert ell[0] == pytest.approx(42.2 * 1.2, rel=0.02)
    assert ell[-1] < 1400
    field = np.asarray(result["truth"]["dust"].values)[0]
    power = np.abs(np.fft.fft2(field, norm="ortho")) ** 2
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(PIXELS), np.fft.fftfreq(PIXELS))) * PIXELS
    inside = (k >= 9.5) & (k < 10.5)
    assert np.asarray(truth.get_ydata())[9] == pytest.approx(power[inside].mean(), rel=1e-4)
    assert np.all(np.asarray(observed.get_ydata())[15:] > np.asarray(truth.get_ydata())[15:])


def test_figures_leave_matplotlib_settings_alone(result):
    import matplotlib

    before = dict(matplotlib.rcParams)
    _assert_picture(png_bytes(reporting.trace_figure(result, ["H0"])))
    assert dict(matplotlib.rcParams) == before


def test_corner_refuses_an_unknown_parameter(result):
    with pytest.raises(ValueError, match="no tau; it has H0, omega_b, sigma"):
        reporting.corner_figure(result, ["H0", "tau"])


def test_missing_fields_are_refused_by_name(result):
    bare = xr.DataTree.from_dict({"posterior": result["posterior"].to_dataset()})
    with pytest.raises(ValueError, match="no field draws"):
        reporting.field_panels(bare, PIXEL_ARCMIN)


def test_pictures_of_one_parameter_many_chains_and_plain_names():
    rng = np.random.default_rng(1)
    draws = rng.standard_normal((12, 40, 2))
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {"theta_$x": (("chain", "draw", "axis"), draws), "c": (("chain", "draw"), draws[..., 0])}
            )
        }
    )
    _assert_picture(png_bytes(reporting.corner_figure(tree, ["c"])))
    _assert_picture(png_bytes(reporting.trace_figure(tree, ["theta_$x[0]", "theta_$x[1]"])))
    rank = reporting.rank_figure(tree)
    _assert_picture(png_bytes(rank))
    assert len(rank.axes) == 2 * 8  # c repeats theta_$x[0]; eight of twelve chains


def test_rank_bands_do_not_widen_where_chains_disagree():
    draws = np.random.default_rng(1).standard_normal((4, 400))
    draws[0] += 5
    figure = reporting.rank_figure(xr.DataTree.from_dict({"posterior": xr.Dataset({"c": (("chain", "draw"), draws)})}))
    edges = figure.axes[0].collections[0]
    assert isinstance(edges, LineCollection)
    top = max(np.asarray(segment)[:, 1].max() for segment in edges.get_segments())
    assert top == pytest.approx(1 + 1.96 * np.sqrt(19 / 400), rel=0.1)


def test_smoothed_density_of_a_known_law():
    rng = np.random.default_rng(2)
    x, density = smoothed_density(rng.standard_normal(200_000), (-5.0, 5.0))
    assert np.max(np.abs(density - np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))) < 0.012
    x, density = smoothed_density(rng.uniform(0, 1, 200_000), (0.0, 1.0))
    assert np.max(np.abs(density - 1)) < 0.05


@pytest.mark.parametrize("correlation", [0.0, 0.95])
def test_contours_hold_their_share(correlation):
    rng = np.random.default_rng(4)
    x = rng.standard_normal(20_000)
    y = correlation * x + np.sqrt(1 - correlation**2) * rng.standard_normal(20_000)
    a, b, density = smoothed_density_2d(x, y, ((-5.0, 5.0), (-5.0, 5.0)))
    levels = credible_levels(density)
    i, j = np.abs(a[:, None] - x).argmin(0), np.abs(b[:, None] - y).argmin(0)
    shares = [np.mean(density[i, j] >= level) for level in levels]
    assert shares == pytest.approx([0.9545, 0.6827], abs=0.03)
