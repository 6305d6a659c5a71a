"""Studies of algorithms that are right and wrong; studies that are interrupted, continued and extended; failures."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from scipy.stats import norm

from bayesdiff.calibration import Fault, Sbc, log_likelihood, posterior_sbc, read_sbc, sbc, simulations
from bayesdiff.calibration.sbc_problem import read_sites
from bayesdiff.calibration.sbc_records import record
from bayesdiff.calibration.sbc_store import StudyStore
from tests.restart_toys import Metropolis
from tests.sbc_toys import Coin, Conjugate, coin_model, model

KEY = jax.random.key(3)
QUANTITIES = {"log_likelihood": log_likelihood(model), "product": lambda draw, data: draw["mean"] * data["y"][:2]}


def study(algorithm=Conjugate(), num_simulations: int = 40, **options) -> Sbc:  # noqa: B008
    settings = {"num_chains": 1, "num_samples": 99, "progress": False} | options
    return sbc(KEY, model, algorithm=algorithm, num_simulations=num_simulations, **settings)


def assert_same(a: Sbc, b: Sbc) -> None:
    for name, x, y in zip(a.records._fields, a.records, b.records, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


def stop_at(number: int, done: int) -> None:
    if done >= number:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def exact() -> Sbc:
    return study(num_simulations=400, quantities=QUANTITIES)


def test_exact_posterior_passes(exact: Sbc) -> None:
    assert exact.names == ("mean", "log_likelihood", "product[0]", "product[1]")
    assert exact.passes()
    assert exact.verdict().startswith("Calibrated: 4 quantities in 400 simulations")
    table = exact.table()
    assert list(table.index) == list(exact.names)
    assert (table["verdict"] == "passes").all()
    assert table.attrs["num_failed"] == 0
    # The closed form: prior variance 1, posterior variance 1/4.
    assert table.loc["mean", "mean_absolute_z"] == pytest.approx(np.sqrt(2 / np.pi), abs=4 * 0.6 / 20)
    assert table.loc["mean", "contraction"] == pytest.approx(0.75, abs=0.08)


def test_ranks_are_those_of_the_truth_among_the_draws(exact: Sbc) -> None:
    np.testing.assert_array_equal(exact.ranks, np.sum(exact.draws < exact.truth[:, None], axis=1))
    assert norm.cdf(abs(exact.truth[:, 0].mean()) * 20) < 0.9999


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Conjugate(width=1.5), "too wide"),
        (Conjugate(width=0.67, shift=0.5), "lies too high and is over-confident"),
    ],
)
def test_wrong_posterior_fails(wrong: Conjugate, words: str) -> None:
    result = study(wrong, 200)
    assert not result.passes()
    assert words in result.verdict()
    assert result.verdict().startswith("Not calibrated")
    assert (result.table()["verdict"] == "fails").all()


def test_whole_numbers_are_observed_as_such() -> None:
    result = sbc(KEY, coin_model, algorithm=Coin(), num_simulations=150, num_chains=1, progress=False)
    assert result.names == ("bias",)
    assert result.passes()


class Chains:
    """Studies with chains that run together, each with a model of its own that counts how often it is traced."""

    def __init__(self) -> None:
        self.traces = 0

    def model(self, y=None):
        self.traces += 1
        model(y)

    def __call__(self, num_simulations: int, **options) -> Sbc:
        settings = {"num_chains": 4, "num_samples": 300, "num_draws": 49, "chunk_size": 20, "progress": False}
        return sbc(KEY, self.model, algorithm=Metropolis(), num_simulations=num_simulations, **settings | options)


@pytest.fixture(scope="module")
def chains() -> tuple[Sbc, list[int]]:
    run, traced = Chains(), []
    result = run(100, callback=lambda done: traced.append(run.traces))
    return result, traced


def test_chains_on_all_data_sets_pass_and_compile_once(chains: tuple[Sbc, list[int]], exact: Sbc) -> None:
    result, traced = chains
    assert result.passes(max_failed=0.1)
    assert np.median(result.records.ess) > 99
    assert len(traced) == 5
    assert traced[0] == traced[-1]
    # The same data sets in closed form: means agree to Monte Carlo error.
    np.testing.assert_allclose(result.truth, exact.truth[:100, :1], rtol=1e-5)
    error = (result.records.mean - exact.records.mean[:100, :1])[:, 0] / 0.5
    error /= np.sqrt(1 / result.records.ess + 1 / 99)
    assert np.sqrt(np.mean(error**2)) < 1.3


def test_study_of_chains_continues_to_the_same_bits(chains: tuple[Sbc, list[int]], tmp_path: Path) -> None:
    run = Chains()
    with pytest.warns(UserWarning, match="interrupted: 40 of 50"):
        part = run(50, store=tmp_path / "study", callback=partial(stop_at, 40))
    assert part.attributes["status"] == "interrupted"
    assert "interrupted" in part.verdict()
    whole = run(100, store=tmp_path / "study")
    assert whole.attributes["status"] == "complete"
    assert_same(whole, chains[0])
    assert_same(read_sbc(tmp_path / "study"), whole)


def test_extension_and_interruption_anywhere(exact: Sbc, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="interrupted: 7 of 30"):
        study(num_simulations=30, store=tmp_path / "study", callback=partial(stop_at, 7))
    assert read_sbc(tmp_path / "study").num_simulations == 7
    whole = study(num_simulations=60, store=tmp_path / "study")
    np.testing.assert_array_equal(whole.ranks, exact.ranks[:60, :1])
    np.testing.assert_array_equal(whole.draws, exact.draws[:60, :, :1])


def test_interruption_before_anything_is_finished() -> None:
    def stop(key, target, num_chains, num_samples, progress):
        raise KeyboardInterrupt

    algorithm = Conjugate()
    object.__setattr__(algorithm, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        study(algorithm)


def other_model(y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mean, 2.0).expand([3]).to_event(1), obs=y)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studies") / "study"
    study(num_simulations=3, store=path)
    return path


def test_store_refuses_another_model(stored: Path) -> None:
    with pytest.raises(FileExistsError, match=r"holds another study: width was 1.0 and is 2.0; the model .its source"):
        sbc(KEY, other_model, algorithm=Conjugate(width=2.0), num_chains=1, num_samples=99, store=stored)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "[0, 4]"}, "the seed was .0, 3. and is .0, 4."),
        ({"algorithm": "Grid"}, "the algorithm was Conjugate and is Grid"),
        ({"quantities_hash": "0"}, "the quantities"),
        ({"num_draws": 50}, "the draws that are ranked was 99 and is 50"),
        ({"num_samples": 50}, "the draws of each chain was 99 and is 50"),
        ({"chunk_size": 7}, "the simulations of a chunk was 10 and is 7"),
    ],
)
def test_store_refuses_another_study(stored: Path, change: dict, words: str) -> None:
    with StudyStore(stored) as store, pytest.raises(FileExistsError, match=words):
        store.begin({**store.card, **change})


def test_only_one_process_writes(stored: Path) -> None:
    with StudyStore(stored), pytest.raises(BlockingIOError):
        StudyStore(stored)


def test_damaged_or_foreign_files_are_refused(stored: Path, tmp_path: Path) -> None:
    path = tmp_path / "study"
    shutil.copytree(stored, path)
    chunk = path / "chunk-00000.safetensors"
    content = chunk.read_bytes()
    for damaged in (content[:-5], content[:-5] + b"12345", b""):
        chunk.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"chunk-00000.safetensors' is damaged.* remove it"):
            read_sbc(path)
    chunk.write_bytes(content)
    card = json.loads((path / "study.json").read_text())
    (path / "study.json").write_text(json.dumps({**card, "seed": "[1, 2]"}))
    with pytest.raises(ValueError, match="belongs to another study"):
        read_sbc(path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    for foreign in ("folder", "file"):
        with pytest.raises(FileExistsError, match="is no store of a calibration study"):
            StudyStore(tmp_path / foreign)


def test_simulations_that_fail_are_kept_counted_and_named(exact: Sbc) -> None:
    # The mean of the data has the standard deviation 1.15.
    with pytest.warns(UserWarning, match="has no posterior: no posterior today"):
        result = study(Conjugate(error_above=1.5, nan_above=1.2, doubt_above=0.9), 100)
    assert result.num_simulations == 100
    assert set(result.faults) == {Fault.NONE, Fault.NOT_CONVERGED, Fault.NOT_FINITE | Fault.NOT_CONVERGED, Fault.ERROR}
    assert 5 < len(result.failed) < 50
    np.testing.assert_array_equal(result.ranked, (result.faults | Fault.NOT_CONVERGED) == Fault.NOT_CONVERGED)
    np.testing.assert_array_equal(result.ranks[result.ranked], exact.ranks[:100, :1][result.ranked])
    assert (result.ranks[~result.ranked] == -1).all()
    assert np.isfinite(result.truth).all()
    assert not result.passes(level=1e-6, max_failed=1.0)
    assert f"{len(result.failed)} simulations failed" in result.verdict()
    assert f"{np.sum(~result.ranked)} of them have no ranks" in result.verdict()
    assert result.table().attrs["an error instead of a posterior"] == np.sum(result.faults == Fault.ERROR)


def test_doubtful_chains_are_counted_in(exact: Sbc) -> None:
    rows = exact.records.rows(0, 60)
    result = Sbc(exact.names, rows._replace(rhat=np.where(np.arange(60) < 5, 1.2, 1.0)), {})
    assert list(result.failed) == [0, 1, 2, 3, 4]
    assert result.tests.num_simulations == 60
    assert "their ranks are counted in" in result.verdict()
    assert result.verdict().startswith("Undecided")
    assert result.passes(max_failed=0.1)
    assert not result.passes()


def test_a_first_simulation_that_fails_is_an_error() -> None:
    with pytest.raises(ValueError, match="no posterior today"):
        study(Conjugate(error_above=-100.0))


def test_bad_chains_have_faults_and_ranks() -> None:
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((4, 4, 100, 1))
    draws[1, 0] += 3.0  # one chain elsewhere
    draws[2] = np.cumsum(rng.standard_normal((4, 100, 1)), axis=1)  # chains that hardly move
    draws[3] = 0.0  # chains that never do
    rows = record(np.zeros((4, 1)), draws, [[i] for i in range(4)], 50, False, np.zeros(4), np.zeros(4, dtype=int))
    faults = Sbc(("a",), rows, {}).faults
    assert faults[0] == Fault.NONE
    assert faults[1] & Fault.RHAT
    assert faults[2] & Fault.ESS
    assert faults[3] == Fault.ESS
    assert ((rows.ranks >= 0) & (rows.ranks <= 50)).all()


def test_study_as_a_tree(exact: Sbc, tmp_path: Path) -> None:
    exact.to_datatree().to_zarr(tmp_path / "study.zarr", consolidated=False)
    tree = xr.open_datatree(tmp_path / "study.zarr", engine="zarr", consolidated=False)
    assert tree.attrs["algorithm"] == "Conjugate"
    ranks = tree["simulations"]["rank"]
    assert ranks.dims == ("simulation", "quantity")
    np.testing.assert_array_equal(ranks.sel(quantity="mean"), exact.ranks[:, 0])
    assert tree["draws"]["draws"].shape == (400, 99, 4)


def test_which_sites_are_data() -> None:
    def named(unit, counts=None, y=None):
        x = numpyro.sample("x", dist.Normal(0.0, unit))
        numpyro.sample("first", dist.Poisson(jnp.exp(x)), obs=counts)
        numpyro.sample("second", dist.Normal(x, unit), obs=y)

    def computed(y=None):
        size = 4 if y is None else len(y)
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0).expand([size]).to_event(1), obs=y)

    assert read_sites(named, (1.0,), {}, None).dtypes == {"first": "int32", "second": "float32"}
    assert read_sites(named, (1.0,), {"counts": 3}, None).dtypes == {"first": "int32", "second": "float32"}
    assert read_sites(named, (1.0,), {}, ["second"]).latent == ("x", "first")
    assert tuple(read_sites(computed, (), {}, None).dtypes) == ("y",)


def test_bad_input_is_refused_by_name() -> None:
    def latent_only():
        numpyro.sample("x", dist.Normal(0.0, 1.0))

    def with_factor(y=None):
        model(y)
        numpyro.factor("prior", 1.0)

    def field(y=None):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)

    for words, options in (
        ("num_simulations must be a whole number", {"num_simulations": 0}),
        ("num_draws=200 draws are to be ranked", {"num_draws": 200}),
        ("chunk_size must be", {"chunk_size": 1.5}),
        ("parameters names 'sd'", {"parameters": ("sd",)}),
        ("the quantity 'mean' has the name", {"quantities": {"mean": lambda draw, data: 0.0}}),
        ("quantity 'k' must be a function", {"quantities": {"k": 3}}),
        ("observed names 'z'", {"observed": ("z",)}),
    ):
        with pytest.raises(ValueError, match=words):
            study(**options)
    for words, bad in (
        ("which of the sites x are data", latent_only),
        ("factor 'prior'", with_factor),
        ("nothing to rank", field),
    ):
        with pytest.raises(ValueError, match=words):
            sbc(KEY, bad, algorithm=Conjugate(), progress=False)


def test_posterior_sbc(tmp_path: Path) -> None:
    y = np.array([0.3, 1.1, 0.2])
    settings = {"num_chains": 1, "num_samples": 99, "num_reference": 2000, "progress": False}
    run = partial(posterior_sbc, KEY, model, y, **settings)
    result = run(algorithm=Conjugate(), num_simulations=150, store=tmp_path / "study")
    assert result.passes()
    # The truths are draws of the posterior given y, N(0.4, 1/4).
    assert abs(result.truth.mean() - 0.4) < 4 * 0.5 / np.sqrt(150)
    assert abs(result.truth.std() - 0.5) < 4 * 0.5 / np.sqrt(300)
    # Posterior variance 1/7 within 1/4.
    assert result.table().loc["mean", "contraction"] == pytest.approx(1 - 4 / 7, abs=0.15)
    with pytest.raises(FileExistsError, match="the observation"):
        posterior_sbc(KEY, model, y + 1, algorithm=Conjugate(), store=tmp_path / "study", **settings)
    for bad in (y[:2], {"z": y}, y * np.nan):
        with pytest.raises(ValueError, match="observation"):
            posterior_sbc(KEY, model, bad, algorithm=Conjugate(), **settings)


def noisier(key: jax.Array) -> dict[str, jax.Array]:
    """The model's own data with twice its noise, and what was added."""
    key_mean, key_noise = jax.random.split(key)
    mean, noise = jax.random.normal(key_mean), 2.0 * jax.random.normal(key_noise, (3,))
    return {"mean": mean, "noise": noise, "y": mean + noise}


def test_data_sets_of_another_simulator_show_what_the_model_lacks(tmp_path: Path) -> None:
    quantities = {"largest": lambda draw, data: data["y"].max() - draw["mean"]}
    wrong = study(num_simulations=200, simulator=noisier, store=tmp_path / "noisier.sbc", quantities=quantities)
    assert not wrong.passes()
    # The posterior stays as narrow as the model has it; its mean errs by 3/4 of that of the data, 4 / 3 in variance.
    error = wrong.records.mean[:, 0] - wrong.truth[:, 0]
    expected = (0.75**2 * 4.0 / 3.0 + 0.25**2) ** 0.5
    assert error.std() == pytest.approx(expected, rel=0.2)
    assert wrong.records.sd[:, 0].mean() == pytest.approx(0.5, rel=0.1)
    values, observation = simulations(KEY, model, np.arange(5), simulator=noisier)
    np.testing.assert_allclose(values["mean"], wrong.truth[:5, 0], rtol=1e-6)
    np.testing.assert_allclose(observation["y"], values["mean"][:, None] + values["noise"], rtol=1e-5)
    with pytest.raises(FileExistsError, match="another study: the simulator"):
        study(num_simulations=200, store=tmp_path / "noisier.sbc", quantities=quantities)


def test_simulations_are_those_of_the_study(exact: Sbc) -> None:
    values, observation = simulations(KEY, model, [0, 7, 399])
    np.testing.assert_allclose(values["mean"], exact.truth[[0, 7, 399], 0], rtol=1e-6)
    np.testing.assert_allclose(observation["y"][:, 0] * values["mean"], exact.truth[[0, 7, 399], 2], rtol=1e-5)


def test_simulators_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="must give the observed site 'y', it gives mean"):
        study(simulator=lambda key: {"mean": jax.random.normal(key)})
    with pytest.raises(ValueError, match=r"site 'y' has shape \(3,\), that of the simulator \(2,\)"):
        study(simulator=lambda key: {"mean": jax.random.normal(key), "y": jnp.zeros(2)})
    with pytest.raises(ValueError, match="no true value of 'mean'"):
        study(simulator=lambda key: {"y": jax.random.normal(key, (3,))})
    with pytest.raises(ValueError, match="must return a dict of sites, got"):
        study(simulator=lambda key: jax.random.normal(key, (3,)))
