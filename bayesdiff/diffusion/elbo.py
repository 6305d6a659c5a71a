"""The continuous-time variational bound; its formula stands in :mod:`bayesdiff.diffusion.densities`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import scaled_score
from bayesdiff.diffusion.estimate import Estimate
from bayesdiff.diffusion.flow import reference_of
from bayesdiff.diffusion.fourier import hartley
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.noise import colour
from bayesdiff.diffusion.sums import accurate_sum

# The bound's integrand is 0 / 0 at the observation's own noise level, which no stratum may touch.
SMALLEST_OFFSET = 1e-4
SHORTEST_SPAN = 1e-5


class Elbo:
    """The continuous-time variational bound on the log density.

    Args:
        num_times: strata in log s, from the observation's noise level to the schedule's highest.
        num_noise: independent antithetic pairs of noise per stratum.
        key: random key or seed; the same noise is used at every call.
        reference: ``True`` uses the model's twin as reference where it has one; ``False`` is the bound as published.
        power: strata are equal in the ``power``-th root of the integration variable; 2 is dense near the observation's
            noise level, where the bound has most of its variance, and regularises its square-root singularity.
        importance: positive weights of equal parts of the model's range of log s; strata are equal in their integral
            instead, linear between the parts, dense where the bound varies most between parameters (see
            :func:`bayesdiff.diffusion.importance.noise_level_importance`).

    Raises:
        ValueError: for numbers that are not positive.
    """

    def __init__(
        self,
        num_times: int = 64,
        num_noise: int = 4,
        key: jax.Array | int = 0,
        reference: bool = True,
        power: float = 2.0,
        importance: Sequence[float] | None = None,
    ):
        if importance is not None and not all(0.0 < weight < np.inf for weight in importance):
            raise ValueError(f"importance must be positive weights, got {tuple(importance)}")
        self.importance = None if importance is None else tuple(float(weight) for weight in importance)
        if num_times < 1 or num_noise < 1:
            raise ValueError(f"num_times and num_noise must be positive, got {num_times} and {num_noise}")
        self.num_times, self.num_noise, self.reference, self.power = num_times, num_noise, reference, power
        self.key = jax.random.key(key) if isinstance(key, int) else key

    def __repr__(self) -> str:
        settings = f"num_times={self.num_times}, num_noise={self.num_noise}, reference={self.reference}"
        strata = f"power={self.power:g}" if self.importance is None else f"importance of {len(self.importance)} parts"
        return f"Elbo({settings}, {strata})"

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """The bound on log p(y | s, context)."""
        return self.estimate(model, y, s, context).value

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value and its standard error over the independent noise draws (zero when there is one)."""
        noise_power = model.noise_power(context)
        twin = model.twin_at(context) if self.reference else None
        s = jnp.asarray(s, dtype=y.dtype)
        span = jnp.maximum(jnp.log(jnp.asarray(model.noise_levels()[1], dtype=y.dtype)) - jnp.log(s), SHORTEST_SPAN)

        def integrand(inputs):
            white, q = inputs
            rise, weight = self._stratum(model, q, s, span)
            return weight * bound_integrand(model, y, s, rise, white, context, self.reference)

        offset_key, noise_key = jax.random.split(self.key)
        offsets = jax.random.uniform(offset_key, (self.num_noise, self.num_times), y.dtype, minval=SMALLEST_OFFSET)
        q = (jnp.arange(self.num_times) + offsets) / self.num_times
        draw = jax.vmap(lambda key: balanced_noise(key, self.num_times, y.shape, y.dtype))
        white = draw(jax.random.split(noise_key, self.num_noise))
        flat = (white.reshape(-1, *y.shape), q.reshape(-1))
        values = jax.lax.map(jax.checkpoint(integrand), flat, batch_size=min(8, len(flat[1])))
        per_draw = jnp.mean(values.reshape(q.shape), axis=1)
        if twin is not None:
            start = twin.log_density(y, s, noise_power)
        else:
            start = _expected_end(model, y, s, noise_power, context) + y.size * (span - 0.5 * jnp.expm1(-2.0 * span))
        error = jnp.std(per_draw, ddof=1) / jnp.sqrt(self.num_noise) if self.num_noise > 1 else jnp.zeros(())
        return Estimate(start - jnp.mean(per_draw), error)

    def _stratum(self, model, q, s, span) -> tuple[jax.Array, jax.Array]:
        """Rise of log s' over log s at the fraction q of the strata, and its derivative."""
        if self.importance is None:
            return span * q**self.power, self.power * q ** (self.power - 1.0) * span
        return self._importance_stratum(model, q, s, span)

    def _importance_stratum(self, model, q, s, span) -> tuple[jax.Array, jax.Array]:
        """The same where strata are equal in the integral of the importance.

        It is linear between the centres of its parts: with steps the bound would jump as the observation's noise level
        moves the strata across them.
        """
        low, high = (np.log(max(level, 1e-6)) for level in model.noise_levels())
        weights = np.asarray(self.importance)
        centres = low + (high - low) * (np.arange(len(weights)) + 0.5) / len(weights)
        nodes = np.concatenate([[low], centres, [high]])
        weights = np.concatenate([weights[:1], weights, weights[-1:]])
        integral = np.append(0.0, np.cumsum(0.5 * (weights[1:] + weights[:-1]) * np.diff(nodes)))
        slopes = np.diff(weights) / np.diff(nodes)
        nodes, weights, integral, slopes = (jnp.asarray(x, q.dtype) for x in (nodes, weights, integral, slopes))
        first = jnp.clip(jnp.searchsorted(nodes, jnp.log(s), side="right") - 1, 0, len(nodes) - 2)
        above = jnp.log(s) - nodes[first]
        start = integral[first] + above * (weights[first] + 0.5 * slopes[first] * above)
        total = integral[-1] - start
        place = start + q * total
        part = jnp.clip(jnp.searchsorted(integral, place, side="right") - 1, 0, len(nodes) - 2)
        within = place - integral[part]
        density = jnp.sqrt(weights[part] ** 2 + 2.0 * slopes[part] * within)
        rise = nodes[part] + 2.0 * within / (weights[part] + density) - jnp.log(s)
        return jnp.clip(rise, SHORTEST_SPAN, span), total / density


def bound_integrand(
    model: DiffusionModel,
    y: jax.Array,
    s: jax.Array,
    rise: jax.Array,
    white: jax.Array,
    context: jax.Array,
    reference: bool = True,
) -> jax.Array:
    """|r|^2 + 2 kappa r.n at log s' = log s + rise, less the same for the twin, averaged over n and -n: a scalar.

    Without a twin (1 + (s/s')^2) |n|^2 is added: it cancels what grows like the number of pixels times log s'; its
    integral is known.
    """
    noise_power = model.noise_power(context)
    twin = model.twin_at(context) if reference else None
    higher = s * jnp.exp(rise)
    excess = s * jnp.sqrt(jnp.expm1(2.0 * rise))
    kappa = higher / excess

    def term(white: jax.Array) -> jax.Array:
        noisy = y + excess * colour(white, noise_power)
        r = scaled_score(model.denoiser, noisy, higher, noise_power, context)
        if twin is None:
            coefficient = 1.0 + (s / higher) ** 2
            return jnp.sum(r**2 + 2.0 * kappa * r * white + coefficient * white**2)
        r_twin = scaled_score(twin, noisy, higher, noise_power, context)
        return jnp.sum((r - r_twin) * (r + r_twin + 2.0 * kappa * white))

    return 0.5 * (term(white) + term(-white))


def _expected_end(model: DiffusionModel, y: jax.Array, s: jax.Array, noise_power: jax.Array, context) -> jax.Array:
    """E log p_1(y_1), p_1 the Gaussian that the field is at t = 1."""
    highest = jnp.asarray(model.noise_levels()[1], dtype=y.dtype)
    reference = reference_of(model, None, context)
    total = jnp.broadcast_to(reference.levels(highest, noise_power).total, y.shape)
    spread = jnp.broadcast_to((highest**2 - s**2) * noise_power, y.shape) / total
    whitened = reference.whiten(y, highest, noise_power)
    return -0.5 * accurate_sum(whitened**2 + spread + jnp.log(2.0 * jnp.pi * total))


def balanced_noise(key: jax.Array, num: int, shape: tuple[int, ...], dtype) -> jax.Array:
    """White noise of neighbouring strata whose power is balanced mode by mode, shape (num, *shape).

    In every run of up to 8 strata the size of each Fourier (Hartley) coefficient is a Latin hypercube sample of its
    distribution: each field is exactly unit white noise, while the average of a quadratic form over the run has little
    variance.
    """
    run = next(size for size in (8, 4, 2, 1) if num % size == 0)
    # One draw of bits and a table of permutations: random sorts would take most of the time that the bound compiles.
    bits = jax.random.bits(key, (3, num // run, run, *shape), jnp.uint32)
    orders = jnp.asarray(_permutations(run))
    levels = jnp.moveaxis(orders[bits[0, :, 0] % len(orders)], -1, 1).astype(dtype)
    quantile = (levels + (bits[1].astype(dtype) + 0.5) / 2.0**32) / run
    quantile = jnp.minimum(quantile, 1.0 - jnp.finfo(dtype).epsneg)
    sign = 1.0 - 2.0 * (bits[2] >> 31).astype(dtype)
    coefficients = sign * jnp.sqrt(2.0).astype(dtype) * jax.scipy.special.erfinv(quantile)
    return hartley(coefficients.reshape(num, *shape)).astype(dtype)


@lru_cache
def _permutations(size: int) -> np.ndarray:
    """All orders of ``size`` levels, shape (size!, size)."""
    return np.array(list(permutations(range(size))), dtype=np.int8)


jax.tree_util.register_pytree_node(
    Elbo,
    lambda e: ((e.key,), (e.num_times, e.num_noise, e.reference, e.power, e.importance)),
    lambda aux, children: Elbo(aux[0], aux[1], children[0], *aux[2:]),
)
