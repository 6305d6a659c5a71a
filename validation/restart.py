"""Runs that are killed at random times and continued: NUTS and Gibbs on the twin, in processes of their own.

A run is killed (SIGKILL) up to five times in a row, at random times of its warm-up and sampling, and then left to
finish. After every kill the store must open and hold the first draws of a run that was never interrupted, bit by bit;
at the end it must hold all of them. Stores are written as often as possible, so that many kills hit a commit.
``python -m validation.restart STORE ENGINE`` is the process that is killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
import xarray as xr

import bayesdiff as bd
from bayesdiff.sampling import store as draw_store
from models.dust_cmb.model import make_model
from models.linear_gaussian import make_twin
from validation.figures import Figure, above, below
from validation.kills import finish, kill, seconds_of_writing, start

SIZE, NUM_KILLS, KILLS_IN_A_ROW = 16, 30, 5
ENGINES = {
    "NUTS": (bd.NUTS(num_warmup=300), 1200),
    "GibbsDiffusion": (bd.GibbsDiffusion(num_warmup=40, num_diffusion_steps=4, adaptation_steps=50), 300),
}


def run(num: int = NUM_KILLS) -> list[Figure]:
    """All figures of this study, with ``num`` kills."""
    rng = np.random.default_rng(5)
    kills = {"warm-up": 0, "sampling": 0, "before the first iteration": 0}
    counts = dict.fromkeys(ENGINES, 0)
    unreadable = different = identical = index = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        references, durations = {}, {}

        def begin(store: Path, engine: str) -> subprocess.Popen[bytes]:
            return start("validation.restart", str(store), engine, compiled=folder / "compiled")

        for engine in ENGINES:
            store = folder / engine
            durations[engine] = seconds_of_writing(begin(store, engine), partial(_written, store))
            references[engine] = draw_store.open_store(folder / engine).load()
        while sum(counts.values()) < num:
            engine = min(counts, key=lambda engine: counts[engine])
            store, in_a_row = folder / f"run_{index}", 0
            index += 1
            while in_a_row < min(KILLS_IN_A_ROW, num - sum(counts.values()) + in_a_row):
                process = begin(store, engine)
                if not kill(process, partial(_written, store), rng.uniform(0.0, durations[engine])):
                    break
                in_a_row += 1
                counts[engine] += 1
                try:
                    kills[_check(store, references[engine])] += 1
                except Exception as error:  # whatever it is, it must not happen
                    print(f"unreadable after a kill: {error}")
                    unreadable += 1
            finish(begin(store, engine))
            same = _same(draw_store.open_store(store).load(), references[engine])
            identical += in_a_row if same else 0
            different += 0 if same else in_a_row
    return [
        *(Figure(f"kills of {engine}", number) for engine, number in counts.items()),
        *(
            Figure(f"kills in the {phase}" if "before" not in phase else f"kills {phase}", n)
            for phase, n in kills.items()
        ),
        above("kills after which the run continued to the same draws, bit by bit", identical, num - 0.5),
        below("kills after which it did not", different, 0.5),
        below("stores that could not be read, or held other draws, after a kill", unreadable, 0.5),
    ]


def _written(store: Path) -> int:
    file = store / "zarr.json"
    return file.stat().st_mtime_ns if file.exists() else 0


def _check(store: Path, reference: xr.DataTree) -> str:
    """That the store holds the first draws of the reference; returns the phase it is in."""
    data = draw_store.open_store(store)
    progress = json.loads(data.attrs["progress"])
    if progress["iteration"] == 0:
        return "before the first iteration"
    drawn = data["sample_stats"].sizes["draw"] if "sample_stats" in data.children else 0
    if drawn != max(0, progress["iteration"] - progress["num_warmup"]):
        raise ValueError(f"{drawn} draws at iteration {progress['iteration']}")
    if drawn and not _same(data, reference.isel(draw=slice(0, drawn), missing_dims="ignore")):
        raise ValueError("other draws")
    return "sampling" if drawn else "warm-up"


def _same(data: xr.DataTree, reference: xr.DataTree) -> bool:
    return all(
        data[group].to_dataset().load().identical(reference[group].to_dataset())
        for group in ("posterior", "sample_stats")
    )


def _main(store: str, engine: str) -> None:
    draw_store.COMMIT_SECONDS, draw_store.COMMIT_SHARE = 0.1, 0.5
    algorithm, num_samples = ENGINES[engine]
    twin = make_twin(SIZE)
    y = bd.NoisyDiffusion(twin, 0.6, (67.0, 0.0224)).sample(jax.random.key(3))
    options = {"num_chains": 2, "num_samples": num_samples, "store": store, "progress": False}
    bd.sample(jax.random.key(4), make_model(twin), y, algorithm=algorithm, **options)


if __name__ == "__main__":
    _main(*sys.argv[1:])
