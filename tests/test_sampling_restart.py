"""Runs that are killed and continued: the same draws bit by bit, and a store that can always be read."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr

import bayesdiff as bd
from bayesdiff.sampling.chains import run_chains
from bayesdiff.sampling.gaussian_process import fit, nothing
from bayesdiff.sampling.identity import describe_run, differences, model_hash
from bayesdiff.sampling.interrupts import Lock
from bayesdiff.sampling.selection import select
from bayesdiff.sampling.state_file import pack, unpack
from bayesdiff.sampling.store import DrawStore, open_store
from bayesdiff.sampling.target import build_target
from models.linear_gaussian import make_twin
from tests import restart_toys
from tests.restart_toys import ALGORITHMS, KEY, NUM_SAMPLES, Metropolis, Y, model, run

THIN = {"x": 7}


@pytest.fixture(autouse=True)
def commit_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bayesdiff.sampling.store.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("bayesdiff.sampling.store.COMMIT_SHARE", np.inf)


def assert_same_draws(tree: xr.DataTree, expected: xr.DataTree) -> None:
    groups = [name for name in expected.children if name.startswith(("posterior", "sample_stats"))]
    assert groups
    for name in groups:
        xr.testing.assert_identical(tree[name].to_dataset().load(), expected[name].to_dataset().load())


def stop_after(phase: str, num: int):
    def callback(report):
        if report.phase == phase and report.step >= num:
            raise KeyboardInterrupt

    return callback


class Bench:
    """One compiled run of `Metropolis`, with and without a store, at no more than the price of its steps."""

    def __init__(self) -> None:
        self.target = build_target(KEY, model, (Y,))
        self.groups = select(self.target, thin=THIN)
        self.algorithm = Metropolis()
        self.prepared = self.algorithm.prepare(KEY, self.target, 2, False)
        self.run = describe_run(KEY, self.algorithm, self.target, 2, NUM_SAMPLES, self.groups)
        self.reference = run_chains(KEY, self.prepared, 2, NUM_SAMPLES, groups=self.groups, progress=False).groups

    def __call__(self, path: Path, callback=None, num_samples: int = NUM_SAMPLES) -> xr.DataTree:
        with DrawStore(path, self.run, self.groups) as store:
            attributes = {**self.run, "versions": "{}", "preparation_seconds": 0.0}
            store.begin(self.target, attributes, self.prepared.kernel.num_warmup)
            done = run_chains(
                KEY,
                self.prepared,
                2,
                num_samples,
                groups=self.groups,
                sink=store,
                saved=store.saved,
                progress=False,
                callback=callback,
            )
            store.commit(done.status)
        return open_store(path)

    def check_prefix(self, tree: xr.DataTree, whole: bool = False) -> int:
        """That the draws are the first of the reference; returns how many there are."""
        num = tree["sample_stats"].sizes["draw"] if "sample_stats" in tree else 0
        every = {group.name: group.every for group in self.groups}
        for name, values in self.reference.items():
            kept = num if name not in every else -(-num // every[name])
            if not num:
                assert name not in tree
                continue
            assert tree[name].sizes["draw"] == kept
            np.testing.assert_array_equal(tree[name]["draw"], np.arange(kept) * every.get(name, 1))
            for site, draws in values.items():
                np.testing.assert_array_equal(tree[name][site], draws[:, :kept])
        assert not whole or num == NUM_SAMPLES
        return num


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def test_thinned_sites_stand_in_a_group_of_their_own(bench: Bench) -> None:
    assert bench.reference["posterior"]["mean"].shape == (2, NUM_SAMPLES)
    assert set(bench.reference["posterior"]) == {"mean", "square"}
    thinned = bench.reference["posterior_every_7"]["x"]
    assert thinned.shape == (2, 18, 3)
    np.testing.assert_allclose(thinned**2, bench.reference["posterior"]["square"][:, ::7], rtol=1e-6)
    assert bench.reference["sample_stats"]["lp"].shape == (2, NUM_SAMPLES)


def test_store_holds_what_memory_holds(bench: Bench, tmp_path: Path) -> None:
    tree = bench(tmp_path / "run.zarr")
    assert bench.check_prefix(tree, whole=True) == NUM_SAMPLES
    assert tree.attrs["status"] == "complete"
    assert "sampler_state" not in tree
    assert all(list(group.data_vars) == sorted(map(str, group.data_vars)) for group in tree.children.values())
    with xr.open_datatree(tmp_path / "run.zarr", engine="zarr", consolidated=False) as whole:
        assert set(whole.children) >= {"posterior", "posterior_every_7", "sample_stats", "observed_data"}


@pytest.mark.parametrize(("phase", "num"), [("warm-up", 5), ("warm-up", 30), ("sampling", 1), ("sampling", 60)])
def test_interrupted_run_continues(bench: Bench, tmp_path: Path, phase: str, num: int) -> None:
    path = tmp_path / "run.zarr"
    if phase == "warm-up":
        with pytest.raises(KeyboardInterrupt):
            bench(path, stop_after(phase, num))
    else:
        with pytest.warns(UserWarning, match="interrupted: kept"):
            bench(path, stop_after(phase, num))
    assert open_store(path).attrs["status"] == "interrupted"
    bench.check_prefix(open_store(path))
    bench.check_prefix(bench(path), whole=True)


def test_a_kill_at_any_moment_of_any_commit_loses_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is copied before and after every file that is put in place; every copy reads and continues."""
    path, copies = tmp_path / "run.zarr", []
    alone = threading.Lock()

    def snapshot() -> None:
        # Zarr writes from several threads.
        with alone:
            if path.exists():
                copies.append(tmp_path / f"copy_{len(copies)}.zarr")
                # Files on their way vanish while they are copied.
                shutil.copytree(path, copies[-1], ignore=shutil.ignore_patterns("*.partial"))

    def watched(move):
        def moved(source, target):
            snapshot()
            return move(source, target)

        return moved

    monkeypatch.setattr(Path, "replace", watched(Path.replace))
    monkeypatch.setattr(os, "replace", watched(os.replace))
    bench(path)
    monkeypatch.undo()
    assert len(copies) > 100
    lengths = [bench.check_prefix(open_store(copy)) for copy in copies[::6]]
    assert all(open_store(copy).attrs["algorithm"] == "Metropolis" for copy in copies)
    assert sorted(set(lengths))[0] == 0
    assert lengths[-1] == NUM_SAMPLES
    rng = np.random.default_rng(0)
    for index in rng.choice(len(copies), 5, replace=False):
        bench.check_prefix(bench(copies[index]), whole=True)


def test_a_complete_run_is_extended(bench: Bench, tmp_path: Path) -> None:
    tree = bench(tmp_path / "run.zarr", num_samples=50)
    assert tree.attrs["status"] == "complete"
    assert bench.check_prefix(tree) == 50
    bench.check_prefix(bench(tmp_path / "run.zarr"), whole=True)


def test_only_one_process_writes(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    bench(path, num_samples=20)
    lock = Lock(path)
    with pytest.raises(BlockingIOError, match="another process is writing to"):
        bench(path)
    assert bench.check_prefix(open_store(path)) == 20
    lock.release()
    bench.check_prefix(bench(path), whole=True)


def test_damage_is_said(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    bench(path, num_samples=20)
    for chunk in path.glob("sampler_state/*/c/0"):
        content = chunk.read_bytes()
        chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="damaged: its sampler state is not the one that was written"):
        bench(path)
    for chunk in path.glob("sampler_state/*/c/0"):
        chunk.write_bytes(content[:10])
    with pytest.raises(ValueError, match="damaged: its sampler state"):
        bench(path)
    assert bench.check_prefix(open_store(path)) == 20


def test_what_is_no_store_is_not_touched(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="exists already and is no store of a run that can continue"):
        bench(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_store_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        run(Metropolis(), tmp_path / "file" / "run.zarr")


@dataclass(frozen=True)
class Shifted(Metropolis):
    """An algorithm whose preparation is worth keeping and, to show that it is not done twice, never the same."""

    def prepare(self, key, target, num_chains, progress):
        return self._prepared(target, np.random.default_rng().normal())

    def outline(self, target, num_chains):
        return self._prepared(target, 0.0)

    def _prepared(self, target, shift):
        def density(position, data):
            return target.functions.log_density(jax.tree.map(lambda x: x - data[1], position), data[0])

        shifted = target.with_density(density, (target.data, jnp.float32(shift)))
        return replace(super().prepare(KEY, shifted, 2, False), attributes={"shift": float(shift)})


def test_an_expensive_preparation_is_not_done_again(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    with pytest.warns(UserWarning, match="interrupted"):
        run(Shifted(), store, callback=stop_after("sampling", 10))
    shift = open_store(store).attrs["shift"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda: None)
        tree = run(Shifted(), store)
    assert tree.attrs["shift"] == shift
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shifted, "prepare", lambda self, key, target, *rest: self._prepared(target, shift))
        assert_same_draws(tree, run(Shifted()))


def test_the_same_call_continues_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    algorithm = Metropolis()
    with pytest.warns(UserWarning, match="interrupted"):
        run(algorithm, path, callback=stop_after("sampling", 10))
    held = open_store(path).load()
    others = {
        r"num_warmup was 30 and is 40": lambda: run(Metropolis(num_warmup=40), path),
        r"num_chains was 2 and is 3": lambda: run(algorithm, path, num_chains=3),
        r"the algorithm was Metropolis and is NUTS": lambda: run(bd.NUTS(), path),
        r"the seed was \[0, 11\] and is \[0, 12\]": lambda: bd.sample(
            jax.random.key(12), model, Y, algorithm=algorithm, num_chains=2, num_samples=NUM_SAMPLES, store=path
        ),
        r"the data": lambda: bd.sample(
            KEY, model, Y + 1, algorithm=algorithm, num_chains=2, num_samples=NUM_SAMPLES, store=path
        ),
        r"what is kept of the draws": lambda: run(algorithm, path, keep="mean"),
        r"holds \d+ draws of each chain, more than num_samples=1": lambda: run(algorithm, path, num_samples=1),
    }
    for message, call in others.items():
        with pytest.raises(FileExistsError, match=message):
            call()
    xr.testing.assert_identical(open_store(path).load(), held)
    expected = run(algorithm)
    continued = run(algorithm, path)
    assert_same_draws(continued, expected)
    assert continued.attrs["status"] == "complete"

    def forbidden(*args: object) -> None:
        raise AssertionError("a complete run must not be prepared again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metropolis, "prepare", forbidden)
        assert_same_draws(run(algorithm, path), expected)


def make_model(power: np.ndarray, offset: float = 0.0, counts: list[int] | None = None):
    def model(y=None):
        if counts is not None:
            counts.append(1)
        x = numpyro.sample("x", dist.Normal(offset, jnp.asarray(power)).to_event(1))
        numpyro.sample("y", dist.Normal(helper(x), 1.0).to_event(1), obs=y)

    return model


def helper(x):
    return 2.0 * x


def test_models_differ_by_what_they_close_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(made):
        return model_hash(build_target(KEY, made, (Y,)))

    ones = np.ones(3, dtype=np.float32)
    first = digest(make_model(ones))
    assert digest(make_model(ones.copy())) == first
    assert digest(make_model(2 * ones)) != first
    assert digest(make_model(ones, offset=1.0)) != first
    counts: list[int] = []
    counted = digest(make_model(ones, counts=counts))
    assert counts
    assert digest(make_model(ones, counts=counts)) == counted
    found = inspect.getclosurevars
    monkeypatch.setattr(
        inspect, "getclosurevars", lambda f: found(f)._replace(nonlocals=dict(reversed(found(f).nonlocals.items())))
    )
    assert digest(make_model(ones)) == first
    monkeypatch.setitem(globals(), "helper", lambda x: 3.0 * x)
    assert digest(make_model(ones)) != first


def test_estimators_in_models_count() -> None:
    twin = make_twin(8)

    def digest(estimator):
        def model(y=None):
            s = numpyro.sample("s", dist.Uniform(0.1, 1.0))
            numpyro.sample("y", bd.NoisyDiffusion(twin, s, (67.0, 0.02), log_density=estimator), obs=y)

        return model_hash(build_target(KEY, model, (np.zeros((1, 8, 8), dtype=np.float32),)))

    first = digest(bd.Elbo(num_times=4))
    assert digest(bd.Elbo(num_times=4)) == first
    assert digest(bd.Elbo(num_times=5)) != first
    assert digest(bd.Elbo(num_times=4, key=1)) != first


def test_settings_with_arrays_and_estimators_compare_between_processes() -> None:
    target = build_target(KEY, model, (Y,))

    def settings(number: int) -> dict[str, str]:
        bound = bd.Elbo(num_times=4, key=jax.random.key(number))
        return describe_run(KEY, bd.MarginalSurrogate(log_density=bound), target, 2, 10)

    assert " at 0x" not in settings(1)["settings"]
    assert differences(settings(1), settings(1)) == []
    assert "log_density" in differences(settings(1), settings(2))[0]


def test_preparation_is_kept_with_its_state() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(12, 2))
    fitted = fit(points, (points**2).sum(axis=1), points.mean(axis=0), np.eye(2), 20).interpolant
    again = unpack(pack((fitted, KEY)), (nothing(2, 20), jax.random.key(0)))
    for old, new in zip(jax.tree.leaves((fitted, KEY)), jax.tree.leaves(again), strict=True):
        assert (old == new).all()
    with pytest.raises(ValueError, match="that of another run"):
        unpack(pack(fitted), nothing(2, 21))


def test_selection_is_checked() -> None:
    target = build_target(KEY, model, (Y,))
    assert [group.name for group in select(target)] == ["posterior"]
    assert select(target, keep="mean", thin=3) == (("posterior", 3, ("mean",)),)
    groups = select(target, keep=("x", "mean"), thin={"x": 10})
    assert groups == (("posterior", 1, ("mean",)), ("posterior_every_10", 10, ("x",)))
    for options, message in (
        ({"keep": "z"}, "keep names 'z'"),
        ({"keep": ()}, "must name a site"),
        ({"keep": {"x": 10}}, r"thin=\{'x': 10\}"),
        ({"keep": "mean", "thin": {"x": 2}}, "thin names 'x'"),
        ({"thin": 0}, "at least 1, got 0"),
        ({"keep": "y"}, "keep names 'y'"),
    ):
        with pytest.raises(ValueError, match=message):
            select(target, **options)


def test_one_compilation_for_warmup_blocks_and_continuation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def compiled(name: str) -> int:
        return sum(f"Finished XLA compilation of jit({name})" in message for message in caplog.messages)

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        with pytest.warns(UserWarning, match="interrupted"):
            run(Metropolis(num_warmup=75), tmp_path / "run.zarr", callback=stop_after("sampling", 60))
        assert compiled("run_steps") == compiled("begin_state") == compiled("constrain_rows") == 1
        caplog.clear()
        run(Metropolis(num_warmup=75), tmp_path / "run.zarr", num_samples=300)
        assert compiled("run_steps") == compiled("constrain_rows") == 1
        assert compiled("begin_state") == compiled("_value_and_grad") == 0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which processes share what they compile."""
    return {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.mark.parametrize("name", ["NUTS", pytest.param("HMC", marks=pytest.mark.slow)])
def test_killed_processes_continue_to_the_same_bits(name: str, tmp_path: Path, cache: dict[str, str]) -> None:
    store = tmp_path / "run.zarr"
    rng = np.random.default_rng(1)
    moments = ["1", f"t{rng.uniform(20, 150):.0f}", "never"]
    lengths = []
    for moment in moments:
        command = [sys.executable, "-m", "tests.restart_toys", str(store), name, moment]
        done = subprocess.run(command, env=cache, cwd=Path(restart_toys.__file__).parents[1], check=False)
        assert done.returncode == (0 if moment == "never" else -signal.SIGKILL)
        tree = open_store(store)
        lengths.append(tree["posterior"].sizes["draw"] if "posterior" in tree else 0)
    assert lengths == sorted(lengths)
    assert lengths[0] == 0  # killed in the warm-up
    assert_same_draws(open_store(store), run(ALGORITHMS[name]))
