r"""The fields that a prior of foregrounds is one of, and the way to micro-K and back.

Two invertible steps, both recorded in the card. Each channel is first put on a scale on which its pixels are nearly
Gaussian, u = asinh((T - m) / w): the tSZ decrement has pixels of twenty standard deviations, which a flow from a
Gaussian field turns into sharp bends. Then the channels are decorrelated scale by scale, one after the other,

.. math:: x_i = \Bigl( u_i - \bar u_i - \sum_{j<i} b_{ij}(k) \, (u_j - \bar u_j) \Bigr) / s_i ,

b(k) the regression of channel i on those before it in the Fourier modes of |k|. What is left of channel i has no
cross-spectrum with the others, so that a Gaussian field of independent channels, the twin of a Wiener-preconditioned
prior, has all auto- and cross-spectra of the maps. Frequencies of the CIB, correlated to 0.99, would else be learned
as small differences of large numbers.

Patches are not periodic, and Fourier modes are those of the patch with its seam: the step is one of patches of one
size, and commutes with flips and quarter turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.fields import spectral_matrix, wavenumbers

ENTRY = "foregrounds"
_KEYS = ("channels", "unit", "pixel_arcmin", "middle", "width", "mean", "sd", "slopes")


class Scale(NamedTuple):
    """How patches (..., C, H, W) in micro-K become standardised fields; see the module docstring.

    Attributes:
        channels: their names, in order.
        middle: m of each channel [micro-K], (C,).
        width: w of each channel [micro-K], (C,); 0 for a channel that stays linear, u = T - m.
        mean: of u, (C,).
        sd: s, of what is left of u, (C,).
        slopes: b_ij at |k| = 0, 1, ... fundamental modes, (C, C, K), zero for j >= i.
    """

    channels: tuple[str, ...]
    middle: np.ndarray
    width: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    slopes: np.ndarray

    def field(self, maps: Any) -> jax.Array:
        """Standardised fields of maps (..., C, H, W) in micro-K."""
        u = self.compress(maps) - self.mean[:, None, None]
        modes = jnp.fft.rfft2(u)
        slopes = self._slopes(u.shape)
        left = [modes[..., i, :, :] - sum((slopes[i, j] * modes[..., j, :, :] for j in range(i)), 0.0)
                for i in range(len(self.channels))]  # fmt: skip
        fields = jnp.fft.irfft2(jnp.stack(left, axis=-3), s=u.shape[-2:])
        return (fields / self.sd[:, None, None]).astype(u.dtype)

    def maps(self, fields: Any) -> jax.Array:
        """Maps in micro-K of standardised fields (..., C, H, W)."""
        fields = jnp.asarray(fields)
        left = jnp.fft.rfft2(fields * jnp.asarray(self.sd[:, None, None], fields.dtype))
        slopes = self._slopes(fields.shape)
        modes: list[jax.Array] = []
        for i in range(len(self.channels)):
            modes.append(left[..., i, :, :] + sum((slopes[i, j] * modes[j] for j in range(i)), 0.0))
        u = jnp.fft.irfft2(jnp.stack(modes, axis=-3), s=fields.shape[-2:])
        return self.expand(u + self.mean[:, None, None]).astype(fields.dtype)

    def compress(self, maps: Any) -> jax.Array:
        """Compressed pixels u of maps (..., C, H, W) in micro-K."""
        centred = jnp.asarray(maps) - self.middle[:, None, None]
        width = self.width[:, None, None]
        return jnp.where(width > 0, jnp.arcsinh(centred / np.where(width > 0, width, 1.0)), centred)

    def expand(self, u: Any) -> jax.Array:
        """Maps (..., C, H, W) in micro-K of u."""
        width = self.width[:, None, None]
        curved = np.where(width > 0, width, 1.0) * jnp.sinh(jnp.where(width > 0, u, 0.0))
        return jnp.asarray(self.middle[:, None, None] + jnp.where(width > 0, curved, u))

    def to_card(self, pixel_arcmin: float) -> dict[str, Any]:
        """As it stands in a model's card."""
        values = {name: np.asarray(getattr(self, name)).tolist() for name in ("middle", "width", "mean", "sd")}
        slopes = np.round(self.slopes, 6).tolist()
        return {"channels": list(self.channels), "unit": "muK_CMB", "pixel_arcmin": pixel_arcmin, **values,
                "slopes": slopes}  # fmt: skip

    def _slopes(self, shape: Sequence[int]) -> jax.Array:
        return jnp.asarray(at_modes(self.slopes, shape)[..., : shape[-1] // 2 + 1])


def fit_scale(patches: np.ndarray, channels: Sequence[str], linear: Sequence[str] = ()) -> Scale:
    """The scale of training patches.

    Args:
        patches: (N, C, n, n) [micro-K].
        channels: their names, in order.
        linear: of these, the channels that stay linear.

    Raises:
        ValueError: the number of channels does not match.
    """
    if patches.shape[1] != len(channels):
        raise ValueError(f"patches must have the {len(channels)} channels {tuple(channels)}, got {patches.shape[1]}")
    shapes = [(float(np.mean(patches[:, i])), 0.0) if name in linear else fit_asinh(patches[:, i])
              for i, name in enumerate(channels)]  # fmt: skip
    middle, width = (np.array(column) for column in zip(*shapes, strict=True))
    num = len(channels)
    size = patches.shape[-1]
    highest = int(np.rint(wavenumbers((size, size)).max()))
    plain = Scale(tuple(channels), middle, width, np.zeros(num), np.ones(num), np.zeros((num, num, highest + 1)))
    u = np.asarray(plain.compress(patches))
    mean = u.mean(axis=(0, 2, 3), dtype=np.float64)
    power = mean_spectra(u)[..., 1:]
    slopes = np.zeros((num, num, highest + 1))
    for i in range(1, num):
        for k in range(power.shape[-1]):
            slopes[i, :i, k + 1] = np.linalg.solve(power[:i, :i, k], power[:i, i, k])
    slopes[..., 0] = slopes[..., 1]
    fields = np.asarray(plain._replace(mean=mean, slopes=slopes).field(patches))
    return plain._replace(mean=mean, slopes=slopes, sd=fields.std(axis=(0, 2, 3), dtype=np.float64))


def mean_spectra(patches: np.ndarray) -> np.ndarray:
    """Auto- and cross-spectra of patches (num, C, n, n) at |k| = 0, 1, ... fundamental modes, (C, C, K).

    That of the mean, k = 0, is given the power of the fundamental mode.
    """
    size = patches.shape[-1]
    edges = np.arange(0.5, np.rint(wavenumbers((size, size)).max()) + 0.6)
    total = np.zeros((patches.shape[1], patches.shape[1], len(edges) - 1))
    for part in np.array_split(patches, -(-len(patches) // 256)):
        total += np.asarray(spectral_matrix(part, edges=edges).power).sum(axis=0)
    return np.concatenate([total[..., :1], total], axis=-1) / len(patches)


def at_modes(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Values (..., K) at |k| = 0, 1, ... fundamental modes at every mode of ``fft2``, (..., H, W)."""
    height, width = shape[-2:]
    k = wavenumbers((height, width))
    flat = values.reshape(-1, values.shape[-1])
    modes = np.stack([np.interp(k, np.arange(values.shape[-1]), row) for row in flat])
    return modes.reshape(*values.shape[:-1], height, width)


def fit_asinh(values: np.ndarray, num: int = 100_000) -> tuple[float, float]:
    """Middle and width of the asinh scale on which values are most nearly Gaussian, by maximum likelihood.

    Args:
        values: any shape.
        num: of them that are looked at, evenly spaced.
    """
    some = np.asarray(values, dtype=np.float64).ravel()
    some = some[:: max(1, some.size // num)]
    spread = some.std()

    def loss(parameters: np.ndarray) -> float:
        middle, width = some.mean() + spread * parameters[0], spread * np.exp(parameters[1])
        centred = (some - middle) / width
        slope = -np.log(width) - 0.5 * np.log1p(centred**2)
        return float(np.log(np.arcsinh(centred).std()) - slope.mean())

    best = minimize(loss, np.zeros(2), method="Nelder-Mead", bounds=((-5.0, 5.0), (-6.0, 6.0)))
    return float(some.mean() + spread * best.x[0]), float(spread * np.exp(best.x[1]))


def scale_of(model: DiffusionModel, channels: Sequence[str], pixel_arcmin: float | None = None) -> Scale:
    """The scale that a prior's card holds.

    Args:
        model: a prior of foregrounds.
        channels: that it must have, in this order.
        pixel_arcmin: side of its pixels [arcmin], where that matters.

    Raises:
        ValueError: the card is not that of foregrounds, its channels are others or in another order, the model has
            another number of channels than its card, or its pixels are of another size.
    """
    entry = model.card.entries.get(ENTRY)
    if not isinstance(entry, dict) or any(key not in entry for key in _KEYS):
        found = ", ".join(model.card.entries) or "nothing"
        raise ValueError(f"the prior must be one of foregrounds, with {ENTRY} in its card; its card has {found}")
    if list(entry["channels"]) != list(channels):
        raise ValueError(f"the prior must have the channels {', '.join(channels)} in this order, got "
                         f"{', '.join(entry['channels'])}")  # fmt: skip
    if model.event_shape[0] != len(channels):
        raise ValueError(f"a model of {len(channels)} channels, as its card says, expected, got {model.event_shape[0]}")
    if pixel_arcmin is not None and entry["pixel_arcmin"] != pixel_arcmin:
        raise ValueError(f"pixels must be of {entry['pixel_arcmin']} arcmin, those of the prior, got {pixel_arcmin}")
    arrays = {name: np.asarray(entry[name], dtype=np.float64) for name in ("middle", "width", "mean", "sd", "slopes")}
    return Scale(tuple(channels), **arrays)
