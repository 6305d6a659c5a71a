"""Peak memory of runs that sample a field: it must not grow with the number of draws that a store takes.

Each run is a process of its own, whose peak memory is that of JAX, the model and the draws: HMC over a field of
128 x 128 pixels, four chains. ``python -m validation.memory NUM_SAMPLES THIN [STORE]`` is one of them.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

import bayesdiff as bd
from validation.figures import Figure, below

SIZE = 128
NUM_SHORT, NUM_LONG, THIN = 200, 2000, 10


def run(short: int = NUM_SHORT, long: int = NUM_LONG) -> list[Figure]:
    """All figures of this study; the long run has ten times the draws of the short one."""
    with tempfile.TemporaryDirectory() as folder:
        few = _peak(short, 1, Path(folder) / "few.zarr")
        thinned = _peak(long, THIN, Path(folder) / "thinned.zarr")
        many = _peak(long, 1, Path(folder) / "many.zarr")
    in_memory = {(num, thin): _peak(num, thin) for num, thin in ((short, 1), (long, THIN), (long, 1))}
    return [
        Figure(f"peak memory, {short} draws of a field of {SIZE} x {SIZE}, store [MiB]", few),
        below(f"{long} draws, every {THIN}th of the field, store: times that", thinned / few, 1.2),
        below(f"{long} draws, all of the field, store: times that", many / few, 1.2),
        below(
            f"{long} draws, every {THIN}th of the field, no store: times {short} draws without a store",
            in_memory[long, THIN] / in_memory[short, 1],
            1.2,
        ),
        Figure(f"{long} draws, all of the field, no store: the same", in_memory[long, 1] / in_memory[short, 1]),
    ]


def model(y=None):
    """A white field seen through white noise."""
    shape = (1, SIZE, SIZE)
    x = numpyro.sample("x", dist.Normal(jnp.zeros(shape), 1.0).to_event(3))
    numpyro.sample("y", dist.Normal(x, 1.0).to_event(3), obs=y)


def _peak(num_samples: int, thin: int, *store: Path) -> float:
    """Peak memory of a run in its own process [MiB]."""
    command = [sys.executable, "-m", "validation.memory", str(num_samples), str(thin), *map(str, store)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def _main(num_samples: str, thin: str, store: str | None = None) -> None:
    y = jax.random.normal(jax.random.key(1), (1, SIZE, SIZE))
    algorithm = bd.HMC(num_warmup=20, num_integration_steps=2, dense_mass=False)
    options = {"num_samples": int(num_samples), "thin": {"x": int(thin)}, "store": store, "progress": False}
    data = bd.sample(jax.random.key(0), model, y, algorithm=algorithm, **options)
    assert data["posterior"].sizes["draw"] == -(-int(num_samples) // int(thin))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    _main(*sys.argv[1:])
