r"""The CMB on a flat periodic patch: its Fourier power as a differentiable function of (H0, omega_b).

On a small patch the sky is a plane and a stationary Gaussian field has independent Fourier modes. In the orthonormal
convention :math:`P(k) = E|\mathrm{fft2}(x)_k|^2` (``norm="ortho"``) a map with spectrum C_ell on pixels of solid angle
:math:`\Omega` has

.. math:: P(k) = \frac{C_{|k|} B_{|k|}^2}{\Omega}, \qquad |k| = 2 \pi \sqrt{f_y^2 + f_x^2},

with f the frequencies [1/rad] of the patch and B the Gaussian beam, so that the variance of a pixel is the mean of P
over the modes. The mean of the patch (k = 0) is given the power of the fundamental mode: the sky does have waves longer
than a patch, and a diffusion must be able to noise that mode too. C_ell between two integer multipoles is interpolated
linearly in log C_ell. See Hu 2000 (arXiv:astro-ph/0001303) for the approximation, and
:mod:`bayesdiff.cosmology.curved_sky` for its check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.cosmology.camb_table import BOX, LMAX
from bayesdiff.cosmology.emulator import LMIN, emulate_log, shipped_weights

ARCMIN = np.pi / (180.0 * 60.0)


class _PatchModes(NamedTuple):
    """Emulator arrays at the U distinct |k| of a patch, and where each mode finds its own; k = 0 has the fundamental's.

    Attributes:
        mean: mean log C_ell, shape (U,).
        basis: components of log C_ell, shape (num_components, U).
        log_beam: log of the squared beam, shape (U,).
        counts: number of modes of each |k|, shape (U,).
        index: of the |k| of every mode, shape (H, W).
    """

    mean: np.ndarray
    basis: np.ndarray
    log_beam: np.ndarray
    counts: np.ndarray
    index: np.ndarray


def patch_multipoles(shape: Sequence[int], pixel_arcmin: float) -> np.ndarray:
    """Multipole |k| of every Fourier mode of a patch, in the order of ``fft2``.

    Args:
        shape: (..., H, W) in pixels.
        pixel_arcmin: side of a pixel [arcmin].

    Returns:
        Multipoles, shape (H, W).
    """
    pixel = pixel_arcmin * ARCMIN
    ky, kx = (2.0 * np.pi * np.fft.fftfreq(num, pixel) for num in shape[-2:])
    return np.hypot(ky[:, None], kx[None, :])


def _checked_shape(shape: Sequence[int]) -> tuple[int, int]:
    shape = tuple(int(size) for size in shape)
    if len(shape) not in (2, 3) or min(shape) < 1 or min(shape[-2:]) < 2:
        raise ValueError(f"shape must be (height, width) or (channels, height, width), sides >= 2; got {shape}.")
    return shape[-2], shape[-1]


@lru_cache(maxsize=32)
def _patch_modes(shape: tuple[int, int], pixel_arcmin: float, beam_fwhm_arcmin: float) -> _PatchModes:
    if not (np.isfinite(pixel_arcmin) and pixel_arcmin > 0.0):
        raise ValueError(f"pixel_arcmin must be positive; got {pixel_arcmin}.")
    if not (np.isfinite(beam_fwhm_arcmin) and beam_fwhm_arcmin >= 0.0):
        raise ValueError(f"beam_fwhm_arcmin must be zero or positive; got {beam_fwhm_arcmin}.")
    # Rounding merges modes of equal |k| whose floating-point values differ in the last bits.
    ells, index = np.unique(np.round(patch_multipoles(shape, pixel_arcmin), 7), return_inverse=True)
    if ells[-1] > LMAX:
        smallest = pixel_arcmin * ells[-1] / LMAX
        raise ValueError(
            f"Pixels of {pixel_arcmin:g} arcmin are too small: the patch has modes up to ell = {ells[-1]:.0f} and the "
            f"spectrum ends at ell = {LMAX}; use pixels of {smallest:.2f} arcmin or more."
        )
    if ells[1] < LMIN:
        raise ValueError(
            f"A patch of {shape} pixels of {pixel_arcmin:g} arcmin is too large for the flat sky: its fundamental mode "
            f"is ell = {ells[1]:.2f}, below {LMIN}."
        )
    ells, index = ells[1:], np.maximum(index.reshape(shape) - 1, 0)
    lower = np.minimum(ells.astype(int), LMAX - 1)
    fraction = ells - lower
    weights = shipped_weights()

    def at_modes(table: np.ndarray) -> np.ndarray:
        table = table.astype(float)
        return (1.0 - fraction) * table[..., lower - LMIN] + fraction * table[..., lower + 1 - LMIN]

    beam_sigma = beam_fwhm_arcmin * ARCMIN / np.sqrt(8.0 * np.log(2.0))
    return _PatchModes(
        mean=at_modes(weights.mean),
        basis=at_modes(weights.basis),
        log_beam=-ells * (ells + 1.0) * beam_sigma**2,
        counts=np.bincount(index.ravel()),
        index=index,
    )


def cmb_power(
    H0: ArrayLike,
    omega_b: ArrayLike,
    shape: Sequence[int],
    pixel_arcmin: float,
    beam_fwhm_arcmin: float = 0.0,
    normalise: bool = True,
) -> jax.Array:
    """Fourier power of the flat-sky CMB patch, orthonormal, differentiable in (H0, omega_b).

    Args:
        H0: Hubble constant [km/s/Mpc], in [50, 90], any shape.
        omega_b: physical baryon density Omega_b h^2, in [0.0075, 0.0567], any shape that broadcasts with H0.
        shape: of the field, (H, W) or (C, H, W); the power is the same for every channel.
        pixel_arcmin: side of a pixel [arcmin].
        beam_fwhm_arcmin: full width at half maximum of a Gaussian beam [arcmin]; 0 for none.
        normalise: divide by the mean over the modes, so that the field (after the beam) has unit variance for every
            cosmology; else the power is in muK^2, C_ell / (solid angle of a pixel).

    Returns:
        E |fft2(x, norm="ortho")|^2, shape (..., H, W), at k = 0 that of the fundamental mode. Traced parameters
        outside the box give NaN.

    Raises:
        ValueError: a concrete parameter is outside the box, or the pixels are too small (modes beyond ell = 2500).
    """
    modes = _patch_modes(_checked_shape(shape), float(pixel_arcmin), float(beam_fwhm_arcmin))
    log_power = emulate_log(H0, omega_b, modes.mean + modes.log_beam, modes.basis)
    if normalise:
        # Only the shape matters, so the largest value is taken out before the exponential.
        log_power = log_power - jax.lax.stop_gradient(jnp.max(log_power, axis=-1, keepdims=True))
        power = jnp.exp(log_power)
        counts = jnp.asarray(modes.counts / modes.index.size, power.dtype)
        power = power / jnp.expand_dims(power @ counts, -1)
    else:
        power = jnp.exp(log_power) / (float(pixel_arcmin) * ARCMIN) ** 2
    return power.at[..., modes.index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _context_values(context: Any, names: Sequence[str]) -> tuple[ArrayLike, ...]:
    """The named values of a context: a mapping, a tuple in the order of ``names``, or an array (..., num_context)."""
    if isinstance(context, Mapping):
        missing = [name for name in names if name not in context]
        if missing:
            raise ValueError(f"The context needs {list(names)}; {missing} not among {list(context)}.")
        return tuple(context[name] for name in names)
    if isinstance(context, tuple | list):
        num, values = len(context), tuple(context)
    else:
        num = jnp.shape(context)[-1] if jnp.ndim(context) else 0
        values = tuple(context[..., i] for i in range(num))
    if num != len(names):
        raise ValueError(f"The context must hold {list(names)} in this order; got {num} values.")
    return values


@dataclass(frozen=True)
class CMBPower:
    """Power of the CMB patch as a function of the context (H0, omega_b); hashable, and written to cards.

    Attributes:
        shape: of the field, (H, W) or (C, H, W).
        pixel_arcmin: side of a pixel [arcmin].
        beam_fwhm_arcmin: Gaussian beam [arcmin]; 0 for none.
        normalise: unit variance for every cosmology, else muK^2.
    """

    shape: tuple[int, ...]
    pixel_arcmin: float
    beam_fwhm_arcmin: float = 0.0
    normalise: bool = True

    def __post_init__(self) -> None:
        """Check the geometry at once rather than at the first call."""
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        _patch_modes(_checked_shape(self.shape), float(self.pixel_arcmin), float(self.beam_fwhm_arcmin))

    @property
    def isotropic(self) -> bool:
        """Whether the power depends on |k| alone."""
        return True

    @property
    def context_names(self) -> tuple[str, ...]:
        """Names of the context, in its order."""
        return tuple(BOX)

    @property
    def context_bounds(self) -> dict[str, tuple[float, float]]:
        """Range of each context value."""
        return dict(BOX)

    def __call__(self, context: Any) -> jax.Array:
        """Power, shape (..., H, W), at a context: a dict, a tuple (H0, omega_b) or an array (..., 2)."""
        H0, omega_b = _context_values(context, self.context_names)
        return cmb_power(H0, omega_b, self.shape, self.pixel_arcmin, self.beam_fwhm_arcmin, self.normalise)

    def to_card(self) -> dict[str, Any]:
        """JSON description, read back by ``from_card``."""
        return {
            "type": "cmb_power",
            "shape": list(self.shape),
            "pixel_arcmin": self.pixel_arcmin,
            "beam_fwhm_arcmin": self.beam_fwhm_arcmin,
            "normalise": self.normalise,
        }

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> CMBPower:
        """The power of a card made by ``to_card``."""
        return cls(**_card_settings(card, "cmb_power"))


@dataclass(frozen=True)
class WhitePower:
    """Power of white noise, the same at every context and in every mode; hashable, and written to cards.

    Attributes:
        shape: of the field, (H, W) or (C, H, W).
        variance: of a pixel, in squared units of the field.
    """

    shape: tuple[int, ...]
    variance: float

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        _checked_shape(self.shape)
        if not (np.isfinite(self.variance) and self.variance >= 0.0):
            raise ValueError(f"variance must be zero or positive; got {self.variance}.")

    @property
    def isotropic(self) -> bool:
        """Whether the power depends on |k| alone."""
        return True

    @property
    def context_names(self) -> tuple[str, ...]:
        """Names of the context: none."""
        return ()

    @property
    def context_bounds(self) -> dict[str, tuple[float, float]]:
        """Range of each context value: none."""
        return {}

    def __call__(self, context: Any = None) -> jax.Array:
        """Power, shape (H, W), whatever the context."""
        return jnp.full(self.shape[-2:], self.variance, dtype=float)

    def to_card(self) -> dict[str, Any]:
        """JSON description, read back by ``from_card``."""
        return {"type": "white_power", "shape": list(self.shape), "variance": self.variance}

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> WhitePower:
        """The power of a card made by ``to_card``."""
        return cls(**_card_settings(card, "white_power"))


def _card_settings(card: Mapping[str, Any], expected: str) -> dict[str, Any]:
    if card.get("type") != expected:
        raise ValueError(f"A card of type {expected!r} is needed; got {card.get('type')!r}.")
    settings = {name: value for name, value in card.items() if name != "type"}
    return settings | {"shape": tuple(settings["shape"])}


def power_from_card(card: Mapping[str, Any]) -> CMBPower | WhitePower:
    """The power function of a card, by its ``"type"``.

    Raises:
        ValueError: the type is not known.
    """
    kinds = {"cmb_power": CMBPower, "white_power": WhitePower}
    if card.get("type") not in kinds:
        raise ValueError(f"No power of type {card.get('type')!r}; known are {sorted(kinds)}.")
    return kinds[card["type"]].from_card(card)


def dust_cmb_noise_components(
    shape: Sequence[int], pixel_arcmin: float, beam_fwhm_arcmin: float = 0.0, noise_rms: float = 0.1
) -> dict[str, CMBPower | WhitePower]:
    """The Gaussian part of the dust and CMB problem, by component, in units of the CMB standard deviation.

    Args:
        shape: of the field, (H, W) or (C, H, W).
        pixel_arcmin: side of a pixel [arcmin].
        beam_fwhm_arcmin: Gaussian beam on the CMB [arcmin].
        noise_rms: of the white instrument noise, in units of the CMB rms.

    Returns:
        ``cmb`` (after the beam) and ``instrument_noise``, two independent fields.
    """
    return {
        "cmb": CMBPower(tuple(shape), pixel_arcmin, beam_fwhm_arcmin),
        "instrument_noise": WhitePower(tuple(shape), noise_rms**2),
    }
