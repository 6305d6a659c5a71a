"""The recommended likelihood of a dark-matter field: the bound where it varies most, no surer than it is right.

Between parameters one posterior width apart the bound's integrand scatters with its noise almost only at noise levels
between 0.01 and 3 standard deviations of a field. The prior's card says by how much at each level
(``bound_importance``), and the strata follow it.

The bound of a learned prior ranks parameters well and is far too sure of them: its errors are alike in thousands of
modes, and it counts each mode as independent. It is therefore raised to an exponent (``bound_exponent``, a
:class:`bayesdiff.Tempered`) at which the truths of training simulations are most probable.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.calibration import Exponent, fit_exponent
from bayesdiff.diffusion.importance import noise_level_importance
from bayesdiff.windows import LabelledFields
from models.density_fields.data import PARAMETER_BOUNDS

WIDTHS = (0.03, 0.02)
"""About the distance in Omega_m and sigma_8 over which the bound changes by a nat."""
NUM_FIELDS, NUM_CANDIDATES = 144, 20
# Of the proposal, over the standard deviations of the power spectrum's posterior; and their smallest value.
INFLATION, NARROWEST = 1.3, 0.02
Report = Callable[[str], None]


def plain_bound(prior: bd.DiffusionModel, num_times: int = 64, num_noise: int = 1) -> bd.Elbo:
    """The bound whose strata are those of the prior's card; two network evaluations each, and per noise draw.

    Raises:
        ValueError: the card has no ``bound_importance``.
    """
    return bd.Elbo(num_times=num_times, num_noise=num_noise, importance=_entry(prior, "bound_importance"))


def recommended_bound(prior: bd.DiffusionModel, num_times: int = 64, num_noise: int = 1) -> bd.Tempered:
    """:func:`plain_bound` raised to the exponent of the prior's card.

    Raises:
        ValueError: the card has no ``bound_importance`` or ``bound_exponent``.
    """
    return bd.Tempered(plain_bound(prior, num_times, num_noise), _entry(prior, "bound_exponent"))


def recommended_surrogate(prior: bd.DiffusionModel, num_times: int = 64) -> bd.MarginalSurrogate:
    """The engine for it. The twin's own likelihood is surer still, and starts from a fiftieth of it."""
    bound = recommended_bound(prior, num_times)
    return bd.MarginalSurrogate(bound, twin_exponent=0.02, num_design=12, num_test=10, min_bulk=8)


def measure_importance(prior: bd.DiffusionModel, labelled: LabelledFields, num: int = 12) -> list[float]:
    """Weights for ``bound_importance``, from ``num`` training fields spread over ``labelled``."""
    some = jnp.linspace(0, len(labelled.fields) - 1, num).astype(int)
    contexts = labelled.contexts[some]
    middle = jnp.array([0.5 * (low + high) for low, high in PARAMETER_BOUNDS.values()])
    others = contexts - jnp.array(WIDTHS) * jnp.sign(contexts - middle)
    return list(noise_level_importance(prior, labelled.fields[some], contexts, others))


def measure_exponent(
    prior: bd.DiffusionModel,
    labelled: LabelledFields,
    centre: np.ndarray,
    width: np.ndarray,
    some: np.ndarray,
    num_times: int = 24,
    report: Report = print,
) -> Exponent:
    """The exponent for ``bound_exponent``.

    The network is no better on its training fields than on others (``denoiser_error_over_wiener`` of its card), so they
    serve. Each field is compared at its own parameters and at others, drawn from a Gaussian about what its power
    spectrum says.

    Args:
        prior: with ``bound_importance`` in its card.
        labelled: training fields.
        centre: posterior mean of the parameters from the power spectrum, of the fields ``some``, (num, 2).
        width: its standard deviation, (num, 2).
        some: indices of the fields.
        num_times: strata of the bound.
        report: receives a line of progress now and then.
    """
    low, high = (np.array(ends) for ends in zip(*(prior.context_bounds or ()), strict=True))
    bound = plain_bound(prior, num_times)
    s = jnp.asarray(prior.noise_levels()[0], jnp.float32)
    evaluate = jax.jit(lambda x, contexts: jax.lax.map(lambda c: bound(prior, x, s, c), contexts))
    likelihood, proposal = [], []
    for number, (index, mean, sd) in enumerate(
        zip(some, centre, np.maximum(INFLATION * width, NARROWEST), strict=True)
    ):
        rng = np.random.default_rng([5, number])
        others = mean + sd * rng.normal(size=(50 * NUM_CANDIDATES, 2))
        others = others[((others >= low) & (others <= high)).all(axis=1)][: NUM_CANDIDATES - 1]
        points = np.concatenate([np.asarray(labelled.contexts[index])[None], others])
        likelihood.append(np.asarray(evaluate(labelled.fields[index], jnp.asarray(points, jnp.float32))))
        proposal.append(-0.5 * np.sum(((points - mean) / sd) ** 2, axis=1))
        if (number + 1) % 12 == 0:
            report(f"likelihoods of {number + 1} of {len(some)} fields")
    return fit_exponent(np.stack(likelihood), np.stack(proposal))


def _entry(prior: bd.DiffusionModel, name: str):
    if name not in prior.card.entries:
        raise ValueError(f"the card of the prior must have {name}; it has {', '.join(prior.card.entries)}")
    return prior.card.entries[name]
