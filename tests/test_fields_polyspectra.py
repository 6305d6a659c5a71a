"""Band cumulants against the exact cumulants of quadratic forms, sums over n-gons, and zero on Gaussian fields."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bayesdiff.fields import banded_moments, collapsed_bispectrum, collapsed_trispectrum, wavenumbers
from tests.field_toys import gaussian_fields, red_power, z_of_mean

EDGES = (1.0, 2.0, 4.0, 8.0)


def band(shape: tuple[int, int], low: float, high: float) -> np.ndarray:
    k = wavenumbers(shape)
    return ((k >= low * (1 - 1e-9)) & (k < high * (1 - 1e-9))).astype(float)


def closed_tuples(mask: np.ndarray) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """All quadruples of modes of the band that sum to zero, and those of them that close in pairs; by a plain loop."""
    height, width = mask.shape
    modes = np.argwhere(mask)
    closed, paired = [], []
    for p, q, r in itertools.product(modes, modes, modes):
        s = -(p + q + r) % (height, width)
        if not mask[tuple(s)]:
            continue
        quadruple = [tuple(int(i) for i in k) for k in (p, q, r, s)]
        closed.append(quadruple)
        opposite = [[(-u[0] % height, -u[1] % width) == v for v in quadruple] for u in quadruple]
        if any(opposite[i][j] and opposite[k][m] for i, j, k, m in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2))):
            paired.append(quadruple)
    return closed, paired


@pytest.mark.parametrize("shape", [(4, 4), (5, 5), (4, 6)])
def test_trispectrum_is_the_sum_over_quadruples_that_do_not_close_in_pairs(x64: None, shape: tuple[int, int]) -> None:
    fields = np.random.default_rng(1).standard_normal((4, 1, *shape))
    mask = band(shape, 1.0, 2.5)
    a, b, c, d = (np.fft.fft2(field[0], norm="ortho") for field in fields)
    closed, paired = closed_tuples(mask)
    result = collapsed_trispectrum(*fields, edges=(1.0, 2.5))
    for value, excluded in ((result.moment, []), (result.cumulant, paired)):
        omitted = {tuple(quadruple) for quadruple in excluded}
        terms = [a[p] * b[q] * c[r] * d[s] for p, q, r, s in closed if (p, q, r, s) not in omitted]
        assert len(terms) > 8
        assert complex(sum(terms)).imag == pytest.approx(0.0, abs=1e-9)
        np.testing.assert_allclose(value[0, 0], complex(sum(terms)).real / np.prod(shape) ** 2, rtol=1e-9)


def test_auto_moments_are_those_of_the_filtered_maps(x64: None) -> None:
    fields = np.random.default_rng(2).gamma(1.0, size=(2, 3, 16, 16))
    reference = banded_moments(fields, edges=EDGES)
    skewness = collapsed_bispectrum(fields, edges=EDGES)
    kurtosis = collapsed_trispectrum(fields, edges=EDGES)
    sd = np.asarray(reference.standard_deviation)
    np.testing.assert_allclose(skewness.coefficient, reference.skewness, rtol=1e-9)
    np.testing.assert_allclose(skewness.cumulant, reference.skewness * sd**3, rtol=1e-9)
    np.testing.assert_allclose(kurtosis.moment, (reference.kurtosis + 3) * sd**4, rtol=1e-9)
    np.testing.assert_allclose(kurtosis.coefficient, kurtosis.cumulant / sd**4, rtol=1e-9)
    # In the widest band few of the quadruples close in pairs.
    assert np.abs(kurtosis.coefficient[..., -1] - reference.kurtosis[..., -1]).max() < 0.1


def test_gaussian_channels_have_neither_in_any_band_of_any_map() -> None:
    """Correlated channels of a steep power, in bands of few modes where the plain kurtosis is far from zero."""
    number = 1500
    power = red_power((16, 16))
    a, b = gaussian_fields(3, power, (2, number, 1))
    b = 0.8 * a + 0.6 * b
    for fields in ((a, a, a), (a, a, b), (a, b, b)):
        assert np.abs(z_of_mean(collapsed_bispectrum(*fields, edges=EDGES).cumulant, 0.0)).max() < 4
    for fields in ((a, a, a, a), (a, a, b, b), (a, b, b, b), (a, b, a, b)):
        assert np.abs(z_of_mean(collapsed_trispectrum(*fields, edges=EDGES).cumulant, 0.0)).max() < 4
    biased = banded_moments(a, edges=EDGES).kurtosis
    assert z_of_mean(biased, 0.0).min() < -10


def test_local_type_field_has_its_exact_bispectrum() -> None:
    """x = g + f (g^2 - E g^2), g of steep power, in every band.

    The filtered pixel is the quadratic form u^T g + f g^T diag(u) g, with u the filter's kernel and g of covariance C:
    its third cumulant is 6 f u^T C diag(u) C u + 8 f^3 tr (diag(u) C)^3 (Mathai and Provost 1992, theorem 3.2b.2).
    """
    shape, number, f = (16, 16), 6000, 0.3
    power = red_power(shape, amplitude=20.0)
    g = gaussian_fields(4, power, (number, 1))
    correlation = np.fft.ifft2(power).real
    result = collapsed_bispectrum(g + f * (g**2 - correlation[0, 0]), edges=EDGES)
    pixels = np.argwhere(np.ones(shape))
    difference = (pixels[:, None] - pixels[None, :]) % shape
    covariance = correlation[difference[..., 0], difference[..., 1]]
    expected = []
    for low, high in itertools.pairwise(EDGES):
        kernel = np.fft.ifft2(band(shape, low, high)).real.ravel()
        linear = covariance @ kernel
        cubic = kernel[:, None] * covariance
        expected.append(6 * f * linear @ (kernel * linear) + 8 * f**3 * np.trace(cubic @ cubic @ cubic))
    z = z_of_mean(result.cumulant[:, 0], np.array(expected))
    assert np.abs(z).max() < 4
    # The check has power: 20 % too much would be seen in every band, and the cubic term in the first.
    assert np.abs(z_of_mean(result.cumulant[:, 0], 1.2 * np.array(expected))).min() > 4


def test_white_local_type_channels_have_their_exact_cumulants() -> None:
    """Independent pixels of known cumulants have them in every closed n-gon alike.

    For x = g + f (g^2 - 1), y = g the joint cumulants follow from <g^2 x> and the like: k(xxx) = 6 f + 8 f^3,
    k(xxy) = 4 f, k(xyy) = 2 f, k(xxxx) = 48 f^2 + 48 f^4, k(xxxy) = 24 f^2, k(xxyy) = 8 f^2.
    """
    shape, number, f = (8, 8), 20000, 0.4
    y = np.random.default_rng(5).standard_normal((number, 1, *shape)).astype(np.float32)
    x = y + f * (y**2 - 1)
    edges = (1.0, 2.0, 3.0)
    size = np.prod(shape)
    masks = [band(shape, low, high) for low, high in itertools.pairwise(edges)]
    triangles = np.array([size * np.sum(np.fft.ifft2(mask).real ** 3) * size for mask in masks])
    third = {"xxx": 6 * f + 8 * f**3, "xxy": 4 * f, "xyy": 2 * f}
    fourth = {"xxxx": 48 * f**2 + 48 * f**4, "xxxy": 24 * f**2, "xxyy": 8 * f**2}
    channels = {"x": x, "y": y}
    for names, cumulant in third.items():
        result = collapsed_bispectrum(*(channels[name] for name in names), edges=edges)
        assert np.abs(z_of_mean(result.cumulant[:, 0], cumulant * triangles / size**2)).max() < 4
    counts = [closed_tuples(mask) for mask in masks]
    quadruples = np.array([len(closed) - len(paired) for closed, paired in counts])
    for names, cumulant in fourth.items():
        result = collapsed_trispectrum(*(channels[name] for name in names), edges=edges)
        expected = cumulant * quadruples / size**3
        assert np.abs(z_of_mean(result.cumulant[:, 0], expected)).max() < 4
        assert z_of_mean(result.cumulant[:, 0], 0.5 * expected).max() > 5


def test_batches_jit_units_and_default_octaves() -> None:
    fields = np.random.default_rng(6).gamma(1.0, size=(2, 3, 16, 24)).astype(np.float32)
    together = jax.jit(lambda f: collapsed_trispectrum(f[:, :1], f[:, :1], f, f))(fields)
    assert together.coefficient.shape == (2, 3, 4)
    np.testing.assert_allclose(together.centers[0], np.mean([1, 1, 1.5, 1.5, *[np.hypot(1, 1.5)] * 4]), rtol=1e-6)
    one = collapsed_trispectrum(fields[1, 0], fields[1, 0], fields[1, 2], fields[1, 2])
    np.testing.assert_allclose(together.coefficient[1, 2], one.coefficient, rtol=1e-3, atol=1e-5)
    faint = collapsed_trispectrum(1e-12 * fields[1])
    np.testing.assert_allclose(faint.coefficient, collapsed_trispectrum(fields[1]).coefficient, rtol=1e-3, atol=1e-5)
    by_ell = collapsed_bispectrum(fields, pixel_arcmin=2.0)
    np.testing.assert_allclose(by_ell.cumulant, collapsed_bispectrum(fields).cumulant, rtol=1e-5)
    assert by_ell.centers[0] / together.centers[0] == pytest.approx(360 / (24 * 2 / 60))
    np.testing.assert_array_equal(collapsed_bispectrum(np.ones((1, 16, 16))).coefficient, 0.0)


def test_gradient(x64: None) -> None:
    a, b = jnp.asarray(np.random.default_rng(7).standard_normal((2, 1, 8, 8)))
    check_grads(
        lambda x, y: collapsed_trispectrum(x, x, y, y, edges=(1, 3)).coefficient, (a, b), order=1, modes=["rev"]
    )
    constant = jax.grad(lambda x: collapsed_trispectrum(x, edges=(1, 3)).coefficient.sum())(jnp.zeros_like(a))
    assert np.all(np.isfinite(constant))


def test_bad_input_is_refused() -> None:
    field = np.ones((2, 16, 16))
    with pytest.raises(ValueError, match=r"equal or 1, got \(2, 16, 16\) and \(3, 16, 16\)"):
        collapsed_bispectrum(field, np.ones((3, 16, 16)))
    with pytest.raises(ValueError, match=r"\(2, 16, 16\) and \(2, 16, 8\)"):
        collapsed_trispectrum(field, field[..., :8])
    with pytest.raises(ValueError, match="holds no mode of a 16 x 16 map"):
        collapsed_bispectrum(field, edges=(20, 30))
    with pytest.raises(ValueError, match="must have shape"):
        collapsed_bispectrum(np.ones(16))
    field[1, 3, 4:6] = np.nan
    with pytest.raises(ValueError, match=r"2 NaN or infinite values, the first at index \(1, 3, 4\)"):
        collapsed_bispectrum(field)
