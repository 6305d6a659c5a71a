"""Log densities of a diffusion model, as interchangeable estimators.

Each estimator is a function (model, y, s, context) -> log p(y | s, context), the density of y = x + s Sigma^(1/2) n for
one field, deterministic and differentiable in s and context: whatever is random in it is fixed by its key. The density
of z_t follows as log p_t(z) = log p(z / alpha | s) - d log alpha.

Write r(y, s) = s Sigma^(1/2) score (Sigma^(-1/2) (D - y) / s), v = s'^2 - s^2 and y' = y + v^(1/2) Sigma^(1/2) n for
the field at a higher noise level s'. With d tau = d log s':

* :class:`ProbabilityFlow`: log p(y | s) = log p_1(u_1) + integral of div(du/dtau) d tau - log det G^(1/2), along the
  flow of :mod:`bayesdiff.diffusion.flow` in the whitened field u (Song et al. 2021, arXiv:2011.13456, eq. 39).
* :class:`Elbo`: log p(y | s) >= E log p_1(y_1) - integral of E[ |r|^2 + 2 kappa r.n ] d tau, kappa = s' / v^(1/2) (Song
  et al. 2021, arXiv:2101.09258, theorem 3; Kingma et al. 2021, arXiv:2107.00630). The bound is tight for an exact
  denoiser. Applied to the Gaussian twin as well, whose density is known, it gives
  log p >= log p_twin - integral of E[ |r|^2 - |r_twin|^2 + 2 kappa (r - r_twin).n ] d tau,
  which has no variance where model and twin agree.

Noise is fixed, stratified in time and antithetic: the 1 / v^(1/2) then cancels between n and -n, and differences
between parameters are far more precise than values, which is what an HMC run or a grid uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any, NamedTuple, Protocol

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import GaussianDenoiser, is_gaussian, scaled_score
from bayesdiff.diffusion.flow import integrate, reference_of, velocity, with_divergence
from bayesdiff.diffusion.fourier import hartley
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.noise import colour
from bayesdiff.diffusion.sums import accurate_sum

# The bound's integrand is 0 / 0 at the observation's own noise level, which no stratum may touch.
SMALLEST_OFFSET = 1e-4
SHORTEST_SPAN = 1e-5


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


def best_log_density(model: DiffusionModel) -> LogDensity:
    """The closed form where the denoiser has one, else the bound with the twin as reference."""
    return Exact() if is_gaussian(model.denoiser) else Elbo()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Exact:
    """Closed-form log density of a Gaussian field, log N(y; mu, P + s^2 S)."""

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """Density log p(y | s, context)."""
        if not is_gaussian(model.denoiser):
            raise ValueError(f"Exact needs a GaussianDenoiser, got {type(model.denoiser).__name__}; use Elbo()")
        gaussian: Any = model.twin_at(context)
        return gaussian.log_density(y, s, model.noise_power(context))

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value, without error."""
        return Estimate(self(model, y, s, context), jnp.zeros(()))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Twin:
    """Closed-form log density of the model's twin, whatever the denoiser: the reference of a surrogate.

    Attributes:
        log_amplitudes: log factors by which the twin's power is multiplied; the density is averaged over them, so that
            a field brighter or fainter than the mean is not surprising. Shape (A,).
        exponent: power to which the averaged density is raised. A Gaussian field of the mean spectrum is far surer of
            the parameters than the learned prior, and sure of the wrong ones; below one it is a broad guess.
    """

    log_amplitudes: jax.Array
    exponent: float | jax.Array = 1.0

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """Log of the mean over amplitudes of N(y; mu, A P + s^2 S), times the exponent."""
        twin, noise_power = model.twin_at(context), model.noise_power(context)
        if twin is None:
            raise ValueError("the denoiser of this model knows no Gaussian twin")
        densities = jax.vmap(
            lambda a: GaussianDenoiser(jnp.exp(a) * twin.power, twin.mean).log_density(y, s, noise_power)
        )
        mean = jax.scipy.special.logsumexp(densities(self.log_amplitudes)) - jnp.log(len(self.log_amplitudes))
        return self.exponent * mean

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value, without error."""
        return Estimate(self(model, y, s, context), jnp.zeros(()))


class ProbabilityFlow:
    """Log density by the change of variables along the probability flow.

    Args:
        divergence: ``"exact"`` differentiates along every pixel (for small fields); ``"hutchinson"`` uses fixed random
            probes.
        num_steps: steps in log s of the solver, two denoiser evaluations each with the default Heun.
        num_probes: Hutchinson probes.
        key: random key or seed of the probes.
        reference: Gaussian whose whitened field the flow is integrated in; the model's twin by default.
        solver: a diffrax solver; Heun's method by default.

    Raises:
        ValueError: if ``divergence`` is neither of the two.
    """

    def __init__(
        self,
        divergence: str = "hutchinson",
        num_steps: int = 24,
        num_probes: int = 4,
        key: jax.Array | int = 0,
        reference: GaussianDenoiser | None = None,
        solver: diffrax.AbstractSolver | None = None,
    ):
        if divergence not in ("exact", "hutchinson"):
            raise ValueError(f'divergence must be "exact" or "hutchinson", got {divergence!r}')
        self.divergence, self.num_steps, self.num_probes = divergence, num_steps, num_probes
        self.key = jax.random.key(key) if isinstance(key, int) else key
        self.reference, self.solver = reference, solver

    def __repr__(self) -> str:
        return f"ProbabilityFlow({self.divergence!r}, num_steps={self.num_steps}, num_probes={self.num_probes})"

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """Density log p(y | s, context)."""
        return self.estimate(model, y, s, context).value

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value and the standard error of the divergence over the probes."""
        reference = reference_of(model, self.reference, context)
        noise_power = model.noise_power(context)
        field = velocity(model.denoiser, reference, noise_power, context)

        def rates(tau, state):
            u, _ = state
            return with_divergence(lambda v: field(tau, v), u, probes)

        num = 1 if self.divergence == "exact" else self.num_probes
        u = reference.whiten(y, s, noise_power)
        probes = None
        if self.divergence == "hutchinson":
            probes = jax.random.rademacher(self.key, (num, *u.shape), dtype=u.dtype)
        end = jnp.log(jnp.asarray(model.noise_levels()[1], dtype=u.dtype))
        start = jnp.log(jnp.asarray(s, dtype=u.dtype))
        final, divergences = integrate(rates, (u, jnp.zeros(num, u.dtype)), start, end, self.num_steps, self.solver)
        total = jnp.broadcast_to(reference.levels(s, noise_power).total, y.shape)
        log_base = -0.5 * accurate_sum(final**2 + jnp.log(2.0 * jnp.pi * total))
        value = log_base + jnp.mean(divergences)
        error = jnp.std(divergences, ddof=1) / jnp.sqrt(num) if num > 1 else jnp.zeros(())
        return Estimate(value, error)


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
            instead, dense where the bound varies most between parameters (see
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
        low, high = (np.log(max(level, 1e-6)) for level in model.noise_levels())
        edges = np.linspace(low, high, len(self.importance) + 1)
        weights = np.asarray(self.importance)
        integral = np.append(0.0, np.cumsum(weights))
        edges, weights, integral = (jnp.asarray(x, q.dtype) for x in (edges, weights, integral))
        start = jnp.interp(jnp.log(s), edges, integral)
        total = integral[-1] - start
        place = start + q * total
        part = jnp.clip(jnp.searchsorted(integral, place) - 1, 0, len(weights) - 1)
        width = (edges[-1] - edges[0]) / len(weights)
        rise = jnp.clip(jnp.interp(place, integral, edges) - jnp.log(s), SHORTEST_SPAN, span)
        return rise, total * width / weights[part]


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
jax.tree_util.register_pytree_node(
    ProbabilityFlow,
    lambda e: ((e.key, e.reference), (e.divergence, e.num_steps, e.num_probes, e.solver)),
    lambda aux, children: ProbabilityFlow(*aux[:3], children[0], children[1], aux[3]),
)
