"""A tiny model and algorithm for the tests of runs that are killed, and the script that is killed.

``python -m tests.restart_toys STORE ALGORITHM MOMENT`` runs until it is killed: by itself after ``MOMENT`` blocks, or,
where that begins with ``t``, at that many milliseconds after the first checkpoint, wherever it is then; ``never`` for
never.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayesdiff as bd
from bayesdiff.sampling import store as draw_store
from bayesdiff.sampling.chains import Kernel, Prepared, chain_keys

KEY = jax.random.key(11)
Y = np.array([0.5, -0.2, 0.1], dtype=np.float32)
NUM_SAMPLES = 120
ALGORITHMS = {
    "NUTS": bd.NUTS(num_warmup=60, max_tree_depth=3, dense_mass=False),
    "HMC": bd.HMC(num_warmup=60, num_integration_steps=3, dense_mass=False),
}


def model(y=None):
    """A mean and a field of three pixels."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    with numpyro.plate("pixel", 3):
        x = numpyro.sample("x", dist.Normal(mean, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
    numpyro.deterministic("square", x**2)


@dataclass(frozen=True)
class Metropolis:
    """Random-walk Metropolis: the smallest algorithm whose chains can be spread over devices."""

    num_warmup: int = 30

    def prepare(self, key, target, num_chains, progress):
        """The kernel."""
        del key, num_chains, progress

        def init(key, start, data):
            del key, data
            return start.position, start.log_density

        def move(key, position, value, data):
            key_move, key_accept = jax.random.split(key)
            proposal = jax.tree.map(lambda x: x + 0.7 * jax.random.normal(key_move, x.shape, x.dtype), position)
            new = target.density(proposal, data)
            rate = jnp.exp(jnp.minimum(new - value, 0.0))
            accept = jax.random.uniform(key_accept) < rate
            kept = jax.tree.map(lambda a, b: jnp.where(accept, a, b), proposal, position)
            return (kept, jnp.where(accept, new, value)), rate

        def step(key, index, state, data):
            del index
            position, value = state
            keys = chain_keys(key, value.shape[0])
            state, rate = jax.vmap(move, in_axes=(0, 0, 0, None))(keys, position, value, data)
            return state, {"acceptance_rate": rate, "lp": state[1]}

        return Prepared(Kernel(init, step, lambda state: state[0], self.num_warmup, independent=True), target)


def run(algorithm: Any, store=None, **options):
    """The run that is killed."""
    settings = {"num_chains": 2, "num_samples": NUM_SAMPLES, "progress": False} | options
    return bd.sample(KEY, model, Y, algorithm=algorithm, store=store, **settings)


def commit_every_block() -> None:
    """Commits are a second apart otherwise."""
    draw_store.COMMIT_SECONDS, draw_store.COMMIT_SHARE = 0.0, np.inf


def _main(store: str, name: str, moment: str) -> None:
    commit_every_block()
    blocks = 0

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def callback(report: object) -> None:
        nonlocal blocks
        blocks += 1
        if blocks == 1 and moment.startswith("t"):
            threading.Timer(float(moment[1:]) / 1000.0, kill).start()
        if moment.isdigit() and blocks == int(moment):
            kill()
        time.sleep(0.02)

    run(ALGORITHMS[name], store, callback=callback)


if __name__ == "__main__":
    _main(*sys.argv[1:])
