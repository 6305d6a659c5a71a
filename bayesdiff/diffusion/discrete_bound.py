"""The variational bound of a diffusion in discrete steps, as a sum of chosen terms.

The bound that the literature on field inference uses (Ho et al. 2020, arXiv:2006.11239, eq. 5; Kingma et al. 2021,
arXiv:2107.00630, eq. 13). In T steps of diffusion time from the observation's own t* to 1, with y_i = y + v_i^(1/2)
Sigma^(1/2) n at noise levels s_i, v_i = s_i^2 - s^2, and r(y, s) = s Sigma^(1/2) score,

    -log p(y | s) <= L_0 + L_1 + ... + L_(T-1) + L_T,
    L_0 = -log N(y; E[y | y_1], v_1 Sigma) = 1/2 |e_1|^2 + 1/2 log det 2 pi v_1 Sigma,
    L_i = 1/2 (v_(i+1) / v_i - 1) |e_(i+1)|^2,    e_i = n + (v_i^(1/2) / s_i) r(y_i, s_i),
    L_T = KL(N(y, v_T Sigma) || p_1),

e_i the error of the predicted noise. L_0 alone, or the first K terms, know the smallest scales only and are not a
density of y: a posterior from them is narrower or wider than what the field tells. All terms together are, as T grows,
:class:`bayesdiff.Elbo` without reference less a constant per pixel: the first steps raise v by factors of 2, 3/2, 4/3,
... however small they are, and there the Gaussian of fixed variance is a poor guess of y_i given y_(i+1). The constant,
half of Euler's gamma where v grows linearly, is the same at all parameters.

A thousand terms need a thousand evaluations of the denoiser. With ``num_sampled`` a few are chosen, stratified, with
probabilities ``importance`` and weighted by their inverse, once and for all, like the noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import scaled_score
from bayesdiff.diffusion.densities import Estimate, balanced_noise
from bayesdiff.diffusion.flow import reference_of
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.noise import colour
from bayesdiff.diffusion.schedules import noise_level
from bayesdiff.diffusion.sums import accurate_sum


class DiscreteBound:
    """The bound on the log density in ``num_timesteps`` discrete steps, or a part of its terms.

    Args:
        num_timesteps: T, steps of equal diffusion time.
        terms: None for all of L_0 to L_T; a number K for the first K; or indices between 0 and T - 1.
        num_noise: independent antithetic pairs of noise per term.
        key: random key or seed; the same noise is used at every call.
        num_sampled: evaluate that many of the terms, chosen by ``importance``, instead of each; the estimate of their
            sum is unbiased over keys.
        importance: positive weights (T,) by which terms are chosen, equal ones by default; see
            :func:`term_importance`.

    Raises:
        ValueError: for numbers that are not positive, terms that do not exist or occur twice, or an importance that
            is not positive or not of T values.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        terms: int | Sequence[int] | None = None,
        num_noise: int = 1,
        key: jax.Array | int = 0,
        *,
        num_sampled: int | None = None,
        importance: np.ndarray | Sequence[float] | None = None,
    ):
        if min(num_timesteps, num_noise, 1 if num_sampled is None else num_sampled) < 1:
            raise ValueError(
                f"num_timesteps, num_noise and num_sampled must be positive, got {num_timesteps}, {num_noise} and "
                f"{num_sampled}"
            )
        chosen = range(num_timesteps) if terms is None else range(terms) if isinstance(terms, int) else terms
        self.chosen = tuple(int(i) for i in chosen)
        different = set(self.chosen)
        if not different or len(different) < len(self.chosen) or not different <= set(range(num_timesteps)):
            raise ValueError(f"terms must be different numbers between 0 and {num_timesteps - 1}, got {terms}")
        if importance is not None:
            if num_sampled is None:
                raise ValueError("importance says how num_sampled terms are chosen: give both")
            weights = np.asarray(importance, dtype=np.float64)
            if weights.shape != (num_timesteps,) or not np.isfinite(weights).all() or (weights <= 0).any():
                raise ValueError(
                    f"importance must be {num_timesteps} positive weights, got shape {weights.shape} with minimum "
                    f"{weights.min() if weights.size else float('nan'):g}"
                )
            importance = tuple(weights.tolist())
        self.num_timesteps, self.num_noise, self.num_sampled, self.importance = (
            num_timesteps,
            num_noise,
            num_sampled,
            importance,
        )
        self.whole = terms is None
        self.key = jax.random.key(key) if isinstance(key, int) else key

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the denoiser per value."""
        return 2 * self.num_noise * (self.num_sampled or len(self.chosen))

    def __repr__(self) -> str:
        terms = "all" if self.whole else f"{len(self.chosen)} from {self.chosen[0]}"
        sampled = "" if self.num_sampled is None else f", num_sampled={self.num_sampled}"
        return f"DiscreteBound({self.num_timesteps}, terms={terms}, num_noise={self.num_noise}{sampled})"

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """Minus the sum of the chosen terms; with all of them a bound on log p(y | s, context)."""
        return self.estimate(model, y, s, context).value

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value and its standard error over the independent noise draws (zero when there is one)."""
        index, weight = self._choice(y.dtype)
        white = self._noise(index.shape[1], y)
        flat = (index.reshape(-1), white.reshape(-1, *y.shape))
        term = jax.checkpoint(lambda pair: _term(self.num_timesteps, model, y, s, context, *pair))
        values = jax.lax.map(term, flat, batch_size=min(8, len(flat[0])))
        per_draw = jnp.sum(weight * values.reshape(index.shape), axis=1)
        error = jnp.std(per_draw, ddof=1) / jnp.sqrt(self.num_noise) if self.num_noise > 1 else jnp.zeros(())
        value = -jnp.mean(per_draw) - self._constants(model, y, s, context)
        return Estimate(value, error)

    def _constants(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """What has no network in it: the normalisation in L_0, and L_T."""
        noise_power = jnp.broadcast_to(model.noise_power(context), y.shape)
        total = jnp.zeros((), y.dtype)
        if 0 in self.chosen:
            first = _levels(model, s, jnp.asarray([1]), self.num_timesteps)[0] ** 2 - s**2
            total += 0.5 * accurate_sum(jnp.log(2.0 * jnp.pi * first * noise_power))
        if self.whole:
            highest = jnp.asarray(model.noise_levels()[1], y.dtype)
            reference = reference_of(model, None, context)
            power = jnp.broadcast_to(reference.levels(highest, noise_power).total, y.shape)
            ratio = (highest**2 - s**2) * noise_power / power
            whitened = reference.whiten(y, highest, noise_power)
            total += 0.5 * accurate_sum(whitened**2 + ratio - 1.0 - jnp.log(ratio))
        return total

    def _choice(self, dtype) -> tuple[jax.Array, jax.Array]:
        """Index and weight of the terms to evaluate, (num_noise, terms) each."""
        chosen = jnp.asarray(self.chosen)
        if self.num_sampled is None:
            shape = (self.num_noise, len(self.chosen))
            return jnp.broadcast_to(chosen, shape), jnp.ones(shape, dtype)
        weights = np.ones(self.num_timesteps) if self.importance is None else np.asarray(self.importance)
        share = jnp.asarray(weights[np.asarray(self.chosen)] / weights[np.asarray(self.chosen)].sum(), dtype)
        shift = jax.random.uniform(jax.random.fold_in(self.key, 1), (self.num_noise, self.num_sampled), dtype)
        quantile = (jnp.arange(self.num_sampled) + shift) / self.num_sampled
        place = jnp.minimum(jnp.searchsorted(jnp.cumsum(share), quantile), len(self.chosen) - 1)
        return chosen[place], 1.0 / (self.num_sampled * share[place])

    def _noise(self, num: int, y: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(self.key, 2), self.num_noise)
        return jax.vmap(lambda key: balanced_noise(key, num, y.shape, y.dtype))(keys)


def term_importance(
    model: DiffusionModel,
    fields: jax.Array,
    contexts: jax.Array,
    others: jax.Array,
    num_timesteps: int = 1000,
    num_levels: int = 50,
    num_noise: int = 8,
    seed: int = 0,
) -> np.ndarray:
    """Weights by which :class:`DiscreteBound` best chooses terms for differences between contexts.

    The best probability of a term is proportional to its root mean square; here that of L_i(context) - L_i(other) over
    noise, which is what a posterior is made of. Measured at ``num_levels`` terms and interpolated; no weight is below
    a twentieth of the mean.

    Args:
        model: the diffusion.
        fields: of any contexts, (N, C, H, W).
        contexts: near to those of the fields, (N, num_context).
        others: about a posterior width away from these, (N, num_context).
        num_timesteps: T.
        num_levels: terms measured.
        num_noise: noise draws per term and field.
        seed: of the noise.

    Returns:
        Weights (T,), of sum one.
    """
    s = jnp.asarray(max(model.noise_levels()[0], 1e-3))
    places = np.geomspace(1, num_timesteps, num_levels), np.linspace(1, num_timesteps, num_levels)
    index = np.unique(np.rint(np.concatenate([places[0][::2], places[1][1::2], places[1][-1:]])).astype(int) - 1)

    @jax.jit
    def rms(i: jax.Array) -> jax.Array:
        def one(inputs):
            field, context, other, key = inputs
            white = jax.random.normal(key, field.shape, field.dtype)
            pair = [_term(num_timesteps, model, field, s, c, i, white) for c in (context, other)]
            return (pair[0] - pair[1]) ** 2

        keys = jax.random.split(jax.random.key(seed), (num_noise, len(fields)))
        each = jax.lax.map(lambda k: jax.lax.map(one, (fields, contexts, others, k), batch_size=8), keys)
        return jnp.sqrt(jnp.mean(each))

    measured = np.array([float(rms(jnp.asarray(i))) for i in index])
    weights = np.interp(np.arange(num_timesteps), index, measured)
    weights = np.maximum(weights, 0.05 * weights.mean())
    return weights / weights.sum()


def _levels(model: DiffusionModel, s: jax.Array, steps: jax.Array, num_timesteps: int) -> jax.Array:
    """Noise levels after ``steps`` of the discrete steps from noise level s."""
    start = model.schedule.time_of_noise_level(s)
    return noise_level(model.schedule, start + (1.0 - start) * steps / num_timesteps)


def _term(num: int, model: DiffusionModel, y: jax.Array, s, context: jax.Array, i: jax.Array, white: jax.Array):
    """L_i without its constant, averaged over the noise and its opposite."""
    s = jnp.asarray(s, y.dtype)
    noise_power = model.noise_power(context)
    lower, level = _levels(model, s, jnp.stack([i, i + 1]), num).astype(y.dtype)
    variance = level**2 - s**2
    below = jnp.where(i == 0, 1.0, lower**2 - s**2)
    weight = jnp.where(i == 0, 1.0, (variance - below) / below)

    def squared_error(white: jax.Array) -> jax.Array:
        noisy = y + jnp.sqrt(variance) * colour(white, noise_power)
        score = scaled_score(model.denoiser, noisy, level, noise_power, context)
        return accurate_sum((white + jnp.sqrt(variance) / level * score) ** 2)

    return 0.25 * weight * (squared_error(white) + squared_error(-white))


jax.tree_util.register_pytree_node(
    DiscreteBound,
    lambda b: (
        (b.key,),
        (b.num_timesteps, None if b.whole else b.chosen, b.num_noise, b.num_sampled, b.importance),
    ),
    lambda aux, children: DiscreteBound(*aux[:3], children[0], num_sampled=aux[3], importance=aux[4]),
)
