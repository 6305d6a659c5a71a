"""The probability flow in the whitened field of a Gaussian reference.

With tau = log s the flow of a diffusion is dy/dtau = y - D(y). In u = G^(-1/2) (y - mu), where the Gaussian reference
has power G = P + s^2 S at noise level s, it becomes

    du/dtau = -G^(-1/2) (D - D_W),

D_W the Wiener filter of the reference. All that is stiff, the growth of y and the coloured noise of any condition
number, is gone; the flow of the twin is at rest, and that of a learned prior is slow and bounded by the network. Any
Gaussian may serve as the reference: it only chooses coordinates.

Three integrators serve three purposes. :func:`integrate` adapts to any solver and start and is what densities use.
:func:`push` is the map from unit normal values to fields of the prior, by the denoiser's generator, in a few Heun steps
from the highest noise level to the lowest, short where the field takes shape: one fixed program, differentiable in both
modes, whose reverse pass keeps only the field between steps and computes each step again. :func:`pull` inverts exactly
this map, step by step. :func:`carry` goes the same way for draws, of which nobody asks a gradient or an inverse: by
Adams and Bashforth's steps of third order, one evaluation each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from bayesdiff.diffusion.denoiser import Denoiser, GaussianDenoiser, generator, is_gaussian
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.sums import accurate_sum

# Schedules that reach noise level 0 are followed to where a millionth of the noise's power is left.
LOWEST_NOISE_LEVEL = 1e-3
NUM_NODES = 64
"""Values of log s over which the steps of :func:`push` are laid out."""

Field = Callable[[jax.Array, Any], Any]


def reference_of(model: DiffusionModel, reference: GaussianDenoiser | None, context: jax.Array) -> GaussianDenoiser:
    """``reference``, or the model's twin at this context, or unit white noise where neither is known."""
    if reference is not None:
        return reference
    return model.twin_at(context) or GaussianDenoiser(jnp.ones(model.event_shape[-2:]))


def velocity(denoiser: Denoiser, reference: GaussianDenoiser, noise_power: jax.Array, context: jax.Array) -> Field:
    """The vector field (tau, u) -> du/dtau for one field (C, H, W)."""

    def field(tau: jax.Array, u: jax.Array) -> jax.Array:
        s = jnp.exp(tau)
        y = reference.unwhiten(u, s, noise_power)
        difference = denoiser(y, s, noise_power, context) - reference(y, s, noise_power, context)
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


def push(
    model: DiffusionModel,
    u: jax.Array,
    context: jax.Array,
    num_steps: int,
    reference: GaussianDenoiser | None = None,
) -> jax.Array:
    """Carry unit normal values to a field along the probability flow.

    Args:
        model: the diffusion.
        u: unit normal values, (C, H, W): the whitened field at the highest noise level.
        context: conditioning scalars, (num_context,).
        num_steps: Heun steps of two evaluations of the denoiser each, denser in log s where the field takes shape.
        reference: Gaussian whose whitened field the flow is integrated in; the model's twin by default.

    Returns:
        The field x, (C, H, W). For the twin mu + P^(1/2) u, without integration.
    """
    reference, field, levels = _discretise(model, u, context, num_steps, reference)
    if field is not None:
        u, _ = jax.lax.scan(_checkpointed(lambda u, ends: (_heun(field, u, ends), None)), u, levels)
    return reference.unwhiten(u, jnp.zeros((), u.dtype), model.noise_power(context))


def carry(
    model: DiffusionModel,
    u: jax.Array,
    context: jax.Array,
    num_evaluations: int,
    reference: GaussianDenoiser | None = None,
) -> jax.Array:
    """As :func:`push`, in ``num_evaluations`` steps of one evaluation of the denoiser each; for draws."""
    reference, field, (starts, ends) = _discretise(model, u, context, num_evaluations, reference)
    if field is not None:
        h = ends - starts
        before = jnp.concatenate([h[:1], h[:-1]])
        earlier = jnp.concatenate([before[:1], before[:-1]])
        # The first steps have no history, and need none: at the highest noise level the flow hardly moves.
        index = jnp.arange(num_evaluations)
        first = jnp.where(index > 0, h / 2.0, 0.0)
        second = jnp.where(index > 1, (h**2 / 3.0 + h * before / 2.0) / (before + earlier), 0.0)

        def step(state: tuple[jax.Array, ...], inputs: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], None]:
            u, last_rate, last_slope = state
            tau, h, before, first, second = inputs
            rate = field(tau, u)
            slope = (rate - last_rate) / before
            moved = u + h * (rate + first * slope + second * (slope - last_slope))
            return (moved.astype(u.dtype), rate.astype(u.dtype), slope.astype(u.dtype)), None

        u = jax.lax.scan(step, (u, jnp.zeros_like(u), jnp.zeros_like(u)), (starts, h, before, first, second))[0][0]
    return reference.unwhiten(u, jnp.zeros((), u.dtype), model.noise_power(context))


def pull(
    model: DiffusionModel,
    x: jax.Array,
    context: jax.Array,
    num_steps: int,
    num_iterations: int,
    reference: GaussianDenoiser | None = None,
) -> jax.Array:
    """The unit normal values that :func:`push` carries to ``x``.

    A Heun step forward, u' = T(u), is nearly undone by one backward, B. Where the flow expands by exp(a) in the step,
    1 - T' B' = -a^4 / 4, so that with w <- w + (u' - T(B(w))) from w = u' the values B(w) tend to u where |a| < 1.4,
    while the plain iteration u <- u + (u' - T(u)) needs |a| < 0.7. Raise ``num_steps`` where it does not converge.
    """
    reference, field, levels = _discretise(model, x, context, num_steps, reference)
    u = reference.whiten(x, jnp.zeros((), x.dtype), model.noise_power(context))
    if field is None:
        return u

    def undo(after: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        start, end = ends
        back = lambda w: _heun(field, w, (end, start))  # noqa: E731
        improve = lambda w, _: (w + (after - _heun(field, back(w), ends)), None)  # noqa: E731
        return back(jax.lax.scan(_checkpointed(improve), after, length=num_iterations)[0]), None

    return jax.lax.scan(_checkpointed(undo), u, levels, reverse=True)[0]


def log_determinant(
    model: DiffusionModel,
    u: jax.Array,
    context: jax.Array,
    num_steps: int,
    probes: jax.Array | None,
    reference: GaussianDenoiser | None = None,
) -> jax.Array:
    """Log |det dx/du| of :func:`push`: a constant plus the divergence along the flow, by the same Heun steps.

    Args:
        model: the diffusion.
        u: unit normal values, (C, H, W).
        context: conditioning scalars, (num_context,).
        num_steps: as for :func:`push`.
        probes: random signs (num_probes, C, H, W) of Hutchinson's estimator, or None for the exact divergence.
        reference: as for :func:`push`.

    Returns:
        A scalar: exact for the twin; else to second order in the step and to the error of the probes.
    """
    reference, field, levels = _discretise(model, u, context, num_steps, reference)
    total = jnp.broadcast_to(reference.levels(jnp.zeros((), u.dtype), model.noise_power(context)).total, u.shape)
    constant = 0.5 * accurate_sum(jnp.log(total))
    if field is None:
        return constant

    def rates(tau: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rate, divergences = with_divergence(partial(field, tau), state[0], probes)
        return rate, jnp.mean(divergences)

    start = (u, jnp.zeros((), u.dtype))
    (_, divergence), _ = jax.lax.scan(_checkpointed(lambda z, ends: (_heun(rates, z, ends), None)), start, levels)
    return constant + divergence


def with_divergence(
    function: Callable[[jax.Array], jax.Array], u: jax.Array, probes: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """``function(u)`` and its divergence: one estimate per probe, or the exact one, shape (1,), without probes."""
    if probes is None:
        jacobian = jax.jacfwd(function)(u).reshape(u.size, u.size)
        return function(u), jnp.trace(jacobian)[None]
    value, derivative = jax.linearize(function, u)
    return value, jax.vmap(lambda probe: jnp.sum(probe * derivative(probe)))(probes)


def _discretise(
    model: DiffusionModel, like: jax.Array, context: jax.Array, num_steps: int, reference: GaussianDenoiser | None
) -> tuple[GaussianDenoiser, Field | None, tuple[jax.Array, jax.Array]]:
    """Reference, vector field (None where it is at rest) and the ends (num_steps,) of the steps in log s."""
    at_rest = is_gaussian(model.denoiser) and (reference is None or reference is model.denoiser)
    own = reference is None
    reference = reference_of(model, reference, context)
    noise_power = model.noise_power(context)
    lowest, highest = model.noise_levels()
    if at_rest:
        return reference, None, (jnp.zeros(0), jnp.zeros(0))
    span = jnp.linspace(jnp.log(highest), jnp.log(max(lowest, LOWEST_NOISE_LEVEL)), NUM_NODES, dtype=like.dtype)
    denoiser = generator(model.denoiser)
    # About its own reference a denoiser may be at rest where it corrects nothing.
    moves = getattr(denoiser, "corrects", None) if own else None
    levels = spread(reference, noise_power, span, num_steps, None if moves is None else moves(span))
    field = velocity(denoiser, reference, noise_power, context)
    return reference, field, (levels[:-1], levels[1:])


def spread(
    reference: GaussianDenoiser,
    noise_power: jax.Array,
    span: jax.Array,
    num_steps: int,
    moves: jax.Array | None = None,
) -> jax.Array:
    """Ends of steps (num_steps + 1,) over ``span``, half equal in log s and half where the field takes shape.

    None lie where the flow does not move, if ``moves``, of the shape of ``span``, says where it does.

    What a network adds to the Wiener filter of the reference is at most of its posterior variance V, so that mode k of
    u moves by V^(1/2) / G^(1/2) = (P s^2 S)^(1/2) / (P + s^2 S) per unit of log s or less. Modes count by their power:
    what matters is the error of the field.
    """
    weight = reference.power / jnp.mean(reference.power)

    def speed(tau: jax.Array) -> jax.Array:
        levels = reference.levels(jnp.exp(tau), noise_power)
        return jnp.sqrt(jnp.mean(weight * levels.signal * levels.noise))

    speeds = jax.lax.map(speed, span)
    moving = jnp.ones_like(span) if moves is None else jnp.where(jnp.any(moves), moves, True).astype(span.dtype)
    speeds = moving * (speeds + jnp.sum(moving * speeds) / jnp.sum(moving))
    length = jnp.concatenate([jnp.zeros(1, span.dtype), jnp.cumsum(0.5 * (speeds[1:] + speeds[:-1]))])
    return jnp.interp(jnp.linspace(0.0, length[-1], num_steps + 1), length, span)


def _heun(field: Field, state: Any, ends: tuple[jax.Array, jax.Array]) -> Any:
    """One step of Heun's method from tau = ends[0] to ends[1]; the state is an array or a tuple of arrays."""
    start, end = ends
    move = lambda state, rate, h: jax.tree.map(lambda x, v: (x + h * v).astype(x.dtype), state, rate)  # noqa: E731
    first = field(start, state)
    second = field(end, move(state, first, end - start))
    return move(state, jax.tree.map(jnp.add, first, second), 0.5 * (end - start))


def _checkpointed(body: Callable[..., Any]) -> Callable[..., Any]:
    # Inside a scan the program cannot be merged with its repetition, so nothing need prevent that.
    return jax.checkpoint(body, prevent_cse=False)
