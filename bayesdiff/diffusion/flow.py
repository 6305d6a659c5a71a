"""The probability flow in the whitened field of a Gaussian reference.

With tau = log s the flow of a diffusion is dy/dtau = y - D(y). In u = G^(-1/2) (y - mu), where the Gaussian reference
has power G = P + s^2 S at noise level s, it becomes

    du/dtau = -G^(-1/2) (D - D_W),

D_W the Wiener filter of the reference. All that is stiff, the growth of y and the coloured noise of any condition
number, is gone; the flow of the twin is at rest, and that of a learned prior is slow and bounded by the network. Any
Gaussian may serve as the reference: it only chooses coordinates.
"""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.model import DiffusionModel


def reference_of(model: DiffusionModel, reference: GaussianDenoiser | None) -> GaussianDenoiser:
    """``reference``, or the model's twin, or unit white noise where neither is known."""
    if reference is not None:
        return reference
    return model.twin or GaussianDenoiser(jnp.ones(model.event_shape[-2:]))


def velocity(model: DiffusionModel, reference: GaussianDenoiser, noise_power: jax.Array, context: jax.Array):
    """The vector field (tau, u) -> du/dtau for one field (C, H, W)."""

    def field(tau: jax.Array, u: jax.Array) -> jax.Array:
        s = jnp.exp(tau)
        y = reference.unwhiten(u, s, noise_power)
        difference = model.denoiser(y, s, noise_power, context) - reference(y, s, noise_power, context)
        return -filter_field(difference, 1.0 / jnp.sqrt(reference.levels(s, noise_power).total))

    return field


def integrate(vector_field, initial, start: jax.Array, end: jax.Array, num_steps: int, solver=None):
    """Integrate ``vector_field(tau, state)`` from tau = start to end in equal steps; differentiable in both ends.

    The steps are fixed, so the result is a smooth function of every parameter, and reverse-mode differentiation stores
    only a few of them (checkpointing).
    """

    def unit_interval(r, state, args):
        scaled = vector_field(start + r * (end - start), state)
        return jax.tree.map(lambda rate: ((end - start) * rate).astype(rate.dtype), scaled)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(unit_interval),  # type: ignore[arg-type]
        solver or diffrax.Heun(),
        t0=0.0,
        t1=1.0,
        dt0=1.0 / num_steps,
        y0=initial,
        stepsize_controller=diffrax.ConstantStepSize(),
        saveat=diffrax.SaveAt(t1=True),
        max_steps=num_steps + 1,
    )
    return jax.tree.map(lambda leaf: leaf[0], solution.ys)
