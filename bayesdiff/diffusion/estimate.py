"""What an estimator of a log density is, and what it returns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax

from bayesdiff.diffusion.model import DiffusionModel


class Estimate(NamedTuple):
    """A log density and the standard error of its Monte Carlo part."""

    value: jax.Array
    standard_error: jax.Array


class LogDensity(Protocol):
    """The contract of the estimators; batches go through ``jax.vmap``."""

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """Density log p(y | s, context), a scalar; y has shape (C, H, W), context (num_context,)."""
        ...

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The same with its Monte Carlo standard error."""
        ...
