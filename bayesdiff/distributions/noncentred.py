"""Non-centred models: latent diffusion fields as unit normal values under a deterministic flow.

The field's own density is replaced by that of unit normal values n, and the field is x = T(n), T the probability flow.
The prior of n is white whatever the spectrum of x, so that NUTS, HMC and the microcanonical sampler see a well
conditioned target wherever the data say little; where they say much they narrow whole Fourier modes, which is what the
values n are of, so that a diagonal mass matrix undoes it. Under any differentiable likelihood a gradient costs one pass
of the flow and its reverse. The change is NumPyro's own ``TransformReparam``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.reparam import Reparam, TransformReparam

from bayesdiff.distributions.prior import DiffusionPrior


class FlowReparam(Reparam):
    """NumPyro reparametrisation of a ``DiffusionPrior`` site: ``handlers.reparam(config={"x": FlowReparam()})``.

    The site ``x`` becomes deterministic and unit normal values are sampled at ``x_base``.

    Args:
        num_steps: steps of the flow.
        basis: of the unit normal values, ``"modes"`` or ``"pixels"``.
        **settings: of the :class:`FlowTransform`.
    """

    def __init__(self, num_steps: int = 12, *, basis: str = "modes", **settings: Any):
        self.num_steps, self.settings = num_steps, {"basis": basis, **settings}

    def fingerprint(self) -> str:
        """The settings as a string, by which a stored run knows its model again."""
        return repr({"num_steps": self.num_steps, **self.settings})

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, Any]:
        """Sample the unit normal values and carry them to the field."""
        prior, shape, event_dim = self._unwrap(fn)
        if not isinstance(prior, DiffusionPrior):
            raise ValueError(f"site '{name}' must be a DiffusionPrior, got {type(prior).__name__}")
        transformed = self._wrap(prior.as_transformed(self.num_steps, **self.settings), shape, event_dim)
        return TransformReparam()(name, transformed, obs)


def noncentred(
    model: Callable[..., Any], sites: Sequence[str] | None = None, num_steps: int = 12, **settings: Any
) -> Callable[..., Any]:
    """The NumPyro model with its latent ``DiffusionPrior`` sites sampled as unit normal values.

    ``bd.sample(key, bd.noncentred(model), y)`` samples ``x_base`` and returns the field ``x`` as well.

    Args:
        model: NumPyro model.
        sites: names of the sites to change; by default every latent ``DiffusionPrior`` site.
        num_steps: steps of the flow, see :class:`FlowTransform`.
        **settings: of the :class:`FlowTransform`.

    Raises:
        ValueError: when the model is run and has no such site; the message names those it has.
    """
    changed = partial(_noncentred, model, None if sites is None else tuple(sites), FlowReparam(num_steps, **settings))
    # Whoever asks which arguments are data sees those of the model.
    changed.__signature__ = inspect.signature(model)  # pyright: ignore[reportAttributeAccessIssue]
    return changed


def _noncentred(
    model: Callable[..., Any], sites: tuple[str, ...] | None, reparam: FlowReparam, *args: Any, **kwargs: Any
) -> Any:
    found: list[str] = []

    def config(site: Any) -> FlowReparam | None:
        if site["is_observed"] or not isinstance(_innermost(site["fn"]), DiffusionPrior):
            return None
        found.append(site["name"])
        return reparam if sites is None or site["name"] in sites else None

    result = handlers.reparam(model, config=config)(*args, **kwargs)
    missing = [name for name in sites or () if name not in found]
    if missing or not found:
        raise ValueError(
            f"noncentred needs latent DiffusionPrior sites{f' {missing}' if missing else ''}; the model has "
            f"{', '.join(found) or 'none'}"
        )
    return result


def _innermost(distribution: Any) -> Any:
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution
