"""A model with a closed-form posterior, and algorithms that draw from it, rightly or wrongly."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray as xr

NUM_OBSERVED = 3


def model(y=None):
    """A normal mean, observed three times; its posterior has the variance 1 / 4."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mean, 1.0).expand([NUM_OBSERVED]).to_event(1), obs=y)


def coin_model(heads=None):
    """A coin thrown five times."""
    bias = numpyro.sample("bias", dist.Uniform(0.0, 1.0))
    with numpyro.plate("throw", 5):
        numpyro.sample("n", dist.Bernoulli(bias), obs=heads)


@dataclass(frozen=True)
class Conjugate:
    """Independent draws of the normal mean, too wide by ``width`` and off by ``shift`` standard deviations.

    Where the mean of the data exceeds ``error_above`` it raises, above ``nan_above`` its draws are NaN, and above
    ``doubt_above`` it says that it did not converge.
    """

    width: float = 1.0
    shift: float = 0.0
    error_above: float = np.inf
    nan_above: float = np.inf
    doubt_above: float = np.inf

    def run(self, key, target, num_chains, num_samples, progress):
        """Draws from the closed form."""
        del progress
        data = np.concatenate([np.ravel(y) for y in target.observed.values()])
        if data.mean() > self.error_above:
            raise ValueError("no posterior today")
        variance = 1.0 / (1.0 + data.size)
        white = np.asarray(jax.random.normal(key, (num_chains, num_samples)))
        draws = variance * data.sum() + np.sqrt(variance) * (self.shift + self.width * white)
        if data.mean() > self.nan_above:
            draws[0, 0] = np.nan
        result = xr.DataTree.from_dict({"posterior": xr.Dataset({"mean": (("chain", "draw"), draws)})})
        result.attrs["toy_converged"] = int(data.mean() <= self.doubt_above)
        return result


@dataclass(frozen=True)
class Coin:
    """Independent draws of the bias."""

    def run(self, key, target, num_chains, num_samples, progress):
        """Draws from the closed form."""
        del progress
        heads = target.observed["n"].sum()
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        draws = rng.beta(1.0 + float(heads), 6.0 - float(heads), (num_chains, num_samples))
        assert np.issubdtype(target.observed["n"].dtype, np.integer)
        return xr.DataTree.from_dict({"posterior": xr.Dataset({"bias": (("chain", "draw"), draws)})})
