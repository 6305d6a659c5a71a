"""The chain loop with a small kernel: blocks, interrupts, the store, one compilation, reproducibility."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr

from bayesdiff.sampling import sample
from bayesdiff.sampling import store as draw_store
from bayesdiff.sampling.chains import Kernel, Prepared, run_chains
from bayesdiff.sampling.steps import block_length
from bayesdiff.sampling.target import build_target

KEY = jax.random.key(11)
Y = np.array([0.5, -0.2], dtype=np.float32)


@dataclass(frozen=True)
class Metropolis:
    """Random-walk Metropolis: the smallest algorithm that obeys the protocol."""

    num_warmup: int = 30

    def prepare(self, key, target, num_chains, progress):
        del key, num_chains, progress

        def init(key, start, data):
            del key, data
            return start.position, start.log_density

        def step(key, index, state, data):
            del index
            position, value = state
            key_move, key_accept = jax.random.split(key)
            proposal = {"mean": position["mean"] + jax.random.normal(key_move, position["mean"].shape)}
            new = jax.vmap(lambda p: target.density(p, data))(proposal)
            rate = jnp.exp(jnp.minimum(new - value, 0.0))
            accept = jax.random.uniform(key_accept, value.shape) < rate
            state = {"mean": jnp.where(accept, proposal["mean"], position["mean"])}, jnp.where(accept, new, value)
            return state, {"acceptance_rate": rate, "lp": state[1]}

        return Prepared(Kernel(init, step, lambda state: state[0], self.num_warmup), target, {"note": "toy"})


class CountedModel:
    def __init__(self):
        self.traces = 0

    def __call__(self, y=None):
        self.traces += 1
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        with numpyro.plate("pixel", 2):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def stop_after(num_draws):
    def callback(report):
        if report.phase == "sampling" and report.step >= num_draws:
            raise KeyboardInterrupt

    return callback


def run(model=None, **options):
    settings = {"algorithm": Metropolis(), "num_chains": 3, "num_samples": 120, "progress": False} | options
    return sample(KEY, model or CountedModel(), Y, **settings)


def test_result_has_groups_and_attributes():
    tree = run(num_samples=70)
    assert tree["posterior"]["mean"].dims == ("chain", "draw")
    assert tree["posterior"].sizes == {"chain": 3, "draw": 70}
    assert set(tree["sample_stats"].data_vars) == {"acceptance_rate", "lp"}
    assert tree["observed_data"]["y"].dims == ("pixel",)
    attributes = tree.attrs
    assert attributes["algorithm"] == "Metropolis"
    assert attributes["status"] == "complete"
    assert attributes["note"] == "toy"
    for name in ("settings", "seed", "versions", "model_hash", "compile_seconds", "sampling_seconds"):
        assert name in attributes


def test_same_key_same_draws():
    first, second = run(), run()
    xr.testing.assert_identical(first["posterior"].to_dataset(), second["posterior"].to_dataset())
    raw = sample(
        jax.random.key_data(KEY),
        CountedModel(),
        Y,
        algorithm=Metropolis(),
        num_chains=3,
        num_samples=120,
        progress=False,
    )
    xr.testing.assert_identical(first["posterior"].to_dataset(), raw["posterior"].to_dataset())


def test_longer_run_begins_with_the_shorter():
    short = run(num_samples=33)["posterior"]["mean"]
    np.testing.assert_array_equal(run(num_samples=120)["posterior"].to_dataset()["mean"][:, :33], short)


def test_one_compilation_for_all_blocks():
    few, many = CountedModel(), CountedModel()
    run(few, num_samples=5)
    run(many, num_samples=1000)
    assert many.traces == few.traces


@pytest.mark.parametrize(("values", "expected"), [(1, 10_000), (2**12, 256), (2**20, 50)])
def test_blocks_are_as_long_as_their_positions_allow(values, expected):
    positions = {"x": jax.ShapeDtypeStruct((4, values // 4 or 1), jnp.float32)}
    assert block_length(positions) == expected


def test_new_data_do_not_compile_again():
    model = CountedModel()
    target = build_target(KEY, model, (Y,))
    prepared = Metropolis().prepare(KEY, target, 3, False)
    first = run_chains(KEY, prepared, 3, 60, progress=False)
    assert first.compile_seconds > 0
    other = target.with_data(KEY, Y + 3)
    traces = model.traces
    second = run_chains(KEY, Prepared(prepared.kernel, other), 3, 60, progress=False)
    assert second.compile_seconds == 0
    assert model.traces == traces
    assert second.posterior["mean"].mean() > first.posterior["mean"].mean() + 1


def test_interrupted_run_keeps_its_draws(tmp_path):
    store = tmp_path / "run.zarr"
    with pytest.warns(UserWarning, match="interrupted: kept"):
        tree = run(num_samples=30_000, store=store, callback=stop_after(40))
    assert tree.attrs["status"] == "interrupted"
    drawn = tree["posterior"].sizes["draw"]
    assert 40 <= drawn < 30_000
    with xr.open_datatree(store, engine="zarr", consolidated=False) as stored:
        assert stored.attrs["status"] == "interrupted"
        xr.testing.assert_equal(stored["posterior"].to_dataset().load(), tree["posterior"].to_dataset())
        xr.testing.assert_equal(stored["sample_stats"].to_dataset().load(), tree["sample_stats"].to_dataset())
    complete = run(num_samples=30_000)["posterior"].to_dataset()["mean"]
    np.testing.assert_array_equal(tree["posterior"]["mean"], complete[:, :drawn])


def test_interrupted_warmup_has_nothing_to_keep(tmp_path):
    def callback(report):
        raise KeyboardInterrupt

    store = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt):
        run(store=store, callback=callback)
    with xr.open_datatree(store, engine="zarr", consolidated=False) as stored:
        assert stored.attrs["status"] == "interrupted"


def test_store_is_readable_after_every_block_and_complete_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(draw_store, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(draw_store, "COMMIT_SHARE", np.inf)
    store = tmp_path / "run.zarr"
    lengths = []

    def callback(report):
        if report.phase == "sampling":
            with xr.open_datatree(store, engine="zarr", consolidated=False) as stored:
                lengths.append((stored["posterior"].sizes["draw"], report.step))

    tree = run(num_samples=23_000, store=store, callback=callback)
    assert len(lengths) > 2
    assert all(stored == drawn for stored, drawn in lengths)
    with xr.open_datatree(store, engine="zarr", consolidated=False) as stored:
        assert stored.attrs == tree.attrs
        xr.testing.assert_equal(stored["observed_data"].to_dataset().load(), tree["observed_data"].to_dataset())
        xr.testing.assert_equal(stored["posterior"].to_dataset().load(), tree["posterior"].to_dataset())


def test_progress_bar_runs(capsys):
    run(num_samples=20, progress=True)
    assert "Metropolis, 3 chains: sampling" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "name"), [({"num_samples": 0}, "num_samples"), ({"num_chains": 0}, "num_chains")])
def test_bad_numbers_are_refused(options, name):
    with pytest.raises(ValueError, match=name):
        run(**options)


def test_bad_key_is_refused():
    with pytest.raises(TypeError, match="random key"):
        sample(0, CountedModel(), Y)  # pyright: ignore[reportArgumentType]
