"""A diffusion model: denoiser, noise schedule and noise, and what the density and sampling code needs of them.

Everything below the public surface works with y = z_t / alpha_t and the noise level s = sigma_t / alpha_t (see
:mod:`bayesdiff.diffusion.denoiser`), in which the schedule disappears; the methods here translate from z and t.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.diffusion.denoiser import Denoiser, GaussianDenoiser, GaussianReference, twin
from bayesdiff.diffusion.noise import Noise
from bayesdiff.diffusion.refusals import inside, refuse_non_finite, refuse_outside, refuse_shape
from bayesdiff.diffusion.schedules import Schedule, noise_level, noise_level_range


@dataclass(frozen=True, eq=False)
class Card:
    """What is known of a model beyond its arrays: training, provenance, units, measured quality."""

    entries: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A trained or analytic diffusion of fields.

    Attributes:
        denoiser: E[x | y], see :class:`bayesdiff.diffusion.denoiser.Denoiser`.
        schedule: noise schedule.
        noise: covariance of the noise.
        event_shape: shape of one field, (channels, height, width).
        context_names: names of the conditioning scalars, in the order of the context.
        context_bounds: range of each on which the model was trained; outside it, concrete contexts are refused and
            traced ones have density zero.
        name: name of the field x, used for what is drawn of it.
        card: provenance and measured quality.
    """

    denoiser: Denoiser
    schedule: Schedule
    noise: Noise
    event_shape: tuple[int, int, int]
    context_names: tuple[str, ...] = ()
    context_bounds: tuple[tuple[float, float], ...] | None = None
    name: str = "x"
    card: Card = Card()

    def __post_init__(self):
        if not isinstance(self.event_shape, tuple) or len(self.event_shape) != 3 or min(self.event_shape) < 1:
            raise ValueError(f"event_shape must be (channels, height, width), got {self.event_shape}")
        object.__setattr__(self, "context_names", tuple(self.context_names))
        power = np.shape(getattr(self.twin, "power", ()))[-2:] or getattr(self.twin, "shape", ())
        if len(power) == 2 and power != self.event_shape[-2:]:
            raise ValueError(f"the power of the denoiser is given on {power} modes, but a field is {self.event_shape}")
        if self.context_bounds is None:
            known: dict[str, tuple[float, float]] = {}
            for component in getattr(self.noise, "components", {}).values():
                known.update(getattr(component, "context_bounds", {}))
            if known and set(self.context_names) <= set(known):
                object.__setattr__(self, "context_bounds", tuple(known[name] for name in self.context_names))

    @property
    def twin(self) -> GaussianReference | None:
        """The Gaussian field with the prior's mean and power, if the denoiser knows one, by ``at(context)``."""
        return twin(self.denoiser)

    def twin_at(self, context: jax.Array) -> GaussianDenoiser | None:
        """The twin at one context (num_context,)."""
        return None if self.twin is None else self.twin.at(context)

    @property
    def prior_depends_on_context(self) -> bool:
        """Whether the distribution of x itself, and not only that of the noise, depends on the context."""
        if not self.context_names or isinstance(self.denoiser, GaussianDenoiser):
            return False
        if self.twin is not None and not isinstance(self.twin, GaussianDenoiser):
            return True
        return not any(callable(power) for power in getattr(self.noise, "components", {}).values())

    @property
    def size(self) -> int:
        """Number of pixels of a field, all channels together."""
        return int(np.prod(self.event_shape))

    def context_array(self, context) -> jax.Array:
        """A context as an array (..., num_context).

        Args:
            context: None (no conditioning), a tuple in the order of ``context_names``, a dict with these names, or an
                array.

        Raises:
            ValueError: if names or number do not match, or a concrete value lies outside the trained range.
        """
        if context is None:
            context = ()
        if isinstance(context, Mapping):
            if set(context) != set(self.context_names):
                raise ValueError(f"context must have the names {self.context_names}, got {tuple(context)}")
            context = tuple(context[name] for name in self.context_names)
        if isinstance(context, tuple | list):
            self._refuse_outside(context)  # before they become one array, which under jit has no known values
            parts = jnp.broadcast_arrays(*[jnp.asarray(part, dtype=float) for part in context])
            array = jnp.stack(parts, axis=-1) if parts else jnp.zeros((0,))
        else:
            array = jnp.asarray(context, dtype=float)
        expected = len(self.context_names)
        if array.ndim == 0 or array.shape[-1] != expected:
            raise ValueError(f"context must hold {expected} values {self.context_names}, got shape {array.shape}")
        self._refuse_outside([array[..., index] for index in range(expected)])
        return array

    def _refuse_outside(self, values) -> None:
        for name, (low, high), value in zip(self.context_names, self.context_bounds or (), values, strict=False):
            refuse_outside(name, value, low, high, "the range the model was trained on")

    def context_inside(self, context: jax.Array) -> jax.Array:
        """Whether a context array lies in the trained range, shape (...)."""
        if self.context_bounds is None or not self.context_names:
            return jnp.ones(context.shape[:-1], dtype=bool)
        low, high = (np.asarray(ends, dtype=context.dtype) for ends in zip(*self.context_bounds, strict=True))
        return jnp.all(inside(context, low, high), axis=-1)

    def noise_power(self, context: jax.Array) -> jax.Array:
        """Power of Sigma at one context (num_context,)."""
        return self.noise.power(context, self.event_shape)

    def noise_levels(self) -> tuple[float, float]:
        """Noise levels (s at t = 0, s at t = 1) of the schedule."""
        return noise_level_range(self.schedule)

    def denoise(self, z: jax.Array, t, context=None) -> jax.Array:
        """E[x | z_t = z], shapes (..., C, H, W), at a scalar time and context."""
        refuse_shape("z", z, self.event_shape)
        s = noise_level(self.schedule, t)
        context = self.context_array(context)
        power = self.noise_power(context)
        fields = (z / self.schedule.alpha(t)).reshape(-1, *self.event_shape)
        return jax.vmap(lambda y: self.denoiser(y, s, power, context))(fields).reshape(z.shape)

    def score(self, z: jax.Array, t, context=None) -> jax.Array:
        """Score grad log p_t(z) = Sigma^-1 (alpha D - z) / sigma^2, shapes (..., C, H, W)."""
        from bayesdiff.diffusion.fourier import filter_field

        preconditioned = (self.schedule.alpha(t) * self.denoise(z, t, context) - z) / self.schedule.sigma(t) ** 2
        return filter_field(preconditioned, 1.0 / self.noise_power(self.context_array(context)))

    def given(self, maps: ArrayLike) -> DiffusionModel:
        """The prior of x given maps, of a model that is conditional on maps: an ordinary, unconditional prior.

        Args:
            maps: in the scale of the training (see the card), (maps, H, W), periodic, on the pixels of the training;
                their height and width may be others than those of the training.

        Raises:
            ValueError: the model is not conditional on maps, or is on another number of them, or a value is not finite.
        """
        from bayesdiff.diffusion.reconstruction import GivenMaps, LinearReconstruction

        if not isinstance(self.twin, LinearReconstruction):
            raise ValueError("given() needs a model that is conditional on maps, and this one is not")
        maps = jnp.asarray(maps, dtype=float)
        refuse_non_finite("the maps", maps)
        gaussian = self.twin.at(maps)
        denoiser = gaussian if self.denoiser is self.twin else GivenMaps(self.denoiser, maps)
        return replace(self, denoiser=denoiser, event_shape=(1, maps.shape[-2], maps.shape[-1]))

    def fingerprint(self) -> str:
        """SHA-256 over all arrays of the model, which identifies it in results."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path, **entries: Any) -> Path:
        """Write ``model.safetensors`` and ``card.json`` into the folder ``path``; ``entries`` are added to the card."""
        from bayesdiff.diffusion.storage import save_model

        return save_model(self, Path(path), entries)


jax.tree_util.register_dataclass(
    DiffusionModel,
    data_fields=["denoiser", "noise"],
    meta_fields=["schedule", "event_shape", "context_names", "context_bounds", "name", "card"],
)


def load_model(path: str | Path, noise: Noise | None = None) -> DiffusionModel:
    """Read a model that :meth:`DiffusionModel.save` wrote.

    Args:
        path: the folder.
        noise: the noise, for models whose noise power is a function that cannot be stored.

    Raises:
        FileNotFoundError: if the folder or one of its files is missing.
        ValueError: if the weights are truncated, do not match the card's SHA-256, or the card describes something else.
    """
    from bayesdiff.diffusion.storage import read_model

    return read_model(Path(path), noise)
