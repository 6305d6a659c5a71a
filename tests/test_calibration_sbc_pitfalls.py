"""What a calibration study must not overlook: another study in its store, failures in a crowd, a wrong correlation."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesdiff as bd
from bayesdiff import reporting
from bayesdiff.calibration import Fault, Sbc, functional_ranks, pixel_coverage, posterior_sbc, read_sbc, sbc
from bayesdiff.calibration.sbc_problem import read_sites
from bayesdiff.calibration.sbc_records import record
from bayesdiff.sampling.identity import function_hash
from tests.sbc_toys import Conjugate, model

KEY = jax.random.key(3)
SETTINGS = {"num_chains": 1, "num_samples": 99, "progress": False}


def throws(total: int, y=None):
    """Throws of a coin, how many being an argument."""
    bias = numpyro.sample("mean", dist.Uniform(0.0, 1.0))
    numpyro.sample("y", dist.Binomial(total, bias), obs=y)


def of_draws(values: np.ndarray, truth: np.ndarray, names: tuple[str, ...]) -> Sbc:
    """A study of draws (simulation, chain, draw, quantity)."""
    number = len(truth)
    none = np.zeros(number, dtype=int)
    return Sbc(names, record(truth, values, [[i] for i in range(number)], 49, False, none, none), {})


def normal(number: int, quantities: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws and truths of a right posterior: data tell half of every quantity."""
    rng = np.random.default_rng(seed)
    known = rng.standard_normal((number, quantities))
    return known[:, None, None] + rng.standard_normal((number, 4, 50, quantities)), known + rng.standard_normal(
        known.shape
    )


def test_whole_numbers_of_a_model_are_part_of_the_study(tmp_path: Path) -> None:
    run = partial(sbc, KEY, throws, algorithm=Conjugate(), num_simulations=2, store=tmp_path / "throws.sbc", **SETTINGS)
    run(10)
    with pytest.raises(FileExistsError, match="another study: the model"):
        run(20)

    def of(k: int):
        return lambda draw, data: k * draw["mean"]

    class Scaled:
        def __init__(self, factor: int):
            self.factor = factor

        def model(self, y=None):
            model(y)

    assert function_hash(of(1)) != function_hash(of(2))
    assert function_hash(of(1)) == function_hash(of(1))
    assert function_hash(Scaled(1).model) != function_hash(Scaled(2).model)
    assert function_hash(Scaled(1).model) == function_hash(Scaled(1).model)


def test_an_observed_value_in_the_model_is_data_like_the_rest() -> None:
    def anchored(y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        numpyro.sample("anchor", dist.Normal(mean, 1.0), obs=0.3)
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    assert read_sites(anchored, (), {}, None).dtypes.keys() == {"anchor", "y"}
    assert read_sites(anchored, (), {}, None).latent == ("mean",)
    with pytest.raises(ValueError, match="leaves out the site 'anchor', which has an observed value"):
        read_sites(anchored, (), {}, ["y"])


def test_a_wrong_correlation_is_not_calibrated(tmp_path: Path) -> None:
    """Each quantity by itself is right: the errors of the truths are the same, those of the draws are not."""
    draws, truth = normal(300, 6, seed=8)
    right = of_draws(draws, truth, tuple("abcdef"))
    assert right.uniform()
    known = draws.mean(axis=(1, 2))
    wrong = of_draws(draws, known + (truth - known)[:, :1], tuple("abcdef"))
    assert wrong.tests.passes(0.001)
    assert wrong.joint is not None
    assert wrong.joint.adjusted < 1e-3
    assert not wrong.uniform()
    assert "all quantities together (TARP" in wrong.verdict()
    page = reporting.write_calibration_report(wrong, tmp_path, title="A toy").read_text()
    assert 'class="verdict bad"' in page


def test_a_constant_quantity_does_not_hide_chains_that_fail(tmp_path: Path) -> None:
    draws, truth = normal(40, 2, seed=1)
    draws[5, 0, :, 0] += 8.0
    draws[..., 1], truth[:, 1] = 3.0, 3.0
    study = of_draws(draws, truth, ("a", "constant"))
    assert study.failed.tolist() == [5]
    assert study.faults[5] & Fault.RHAT
    assert np.isnan(study.table().loc["constant", "mean_absolute_z"])
    page = reporting.write_calibration_report(study, tmp_path, title="A toy").read_text()
    assert len(re.findall("data:image/png", page)) == 5
    nothing = of_draws(draws[..., 1:], truth[:, 1:], ("constant",))
    page = reporting.write_calibration_report(nothing, tmp_path, title="A toy").read_text()
    assert "The true values do not vary" in page


def test_a_stuck_simulation_has_a_page(tmp_path: Path) -> None:
    draws, truth = normal(40, 1, seed=2)
    draws[7] = 1.5
    study = of_draws(draws, truth, ("a",))
    assert study.failed.tolist() == [7]
    assert np.isfinite(study.table()["mean_absolute_z"]).all()
    page = reporting.write_calibration_report(study, tmp_path, title="A toy").read_text()
    assert len(re.findall("data:image/png", page)) == 5


def test_divergent_iterations_are_told() -> None:
    draws, truth = normal(60, 1, seed=3)
    study = of_draws(draws, truth, ("a",))
    assert "diverged" not in study.verdict()
    diverged = replace(study, records=study.records._replace(divergences=np.arange(60) // 58))
    assert "Chains diverged in 2 simulations." in diverged.verdict()
    assert diverged.table().attrs["num_divergent"] == 2


def test_ranks_of_chains_that_failed_are_no_verdict_on_the_posterior() -> None:
    draws, truth = normal(200, 1, seed=4)
    study = of_draws(draws, truth + 2.0, ("a",))
    assert "chains alone" not in study.verdict()
    stuck = replace(study, records=study.records._replace(rhat=np.full(200, 1.5)))
    assert "So many simulations failed that their chains alone may be the cause." in stuck.verdict()


@dataclass(frozen=True)
class Chancy:
    """Right, but for errors of a kind of its own in the first data sets."""

    num_errors: int = 1

    def run(self, key, target, num_chains, num_samples, progress):
        """Draws from the closed form, or an error."""
        if len(CALLS) < self.num_errors:
            CALLS.append(1)
            raise RuntimeError("out of memory")
        return Conjugate().run(key, target, num_chains, num_samples, progress)


CALLS: list[int] = []


def test_an_error_by_chance_costs_one_simulation_and_one_of_the_call_ends_the_study() -> None:
    CALLS.clear()
    with pytest.warns(UserWarning, match="simulation [01] has no posterior: out of memory"):
        study = sbc(KEY, model, algorithm=Chancy(2), num_simulations=20, **SETTINGS)
    assert study.failed.tolist() == [0, 1]
    assert (study.faults[:2] == Fault.ERROR).all()
    CALLS.clear()
    with pytest.raises(RuntimeError, match="out of memory"):
        sbc(KEY, model, algorithm=Chancy(100), num_simulations=20, **SETTINGS)
    assert len(CALLS) == 3


def test_an_unfinished_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "study"
    whole = sbc(KEY, model, algorithm=Conjugate(), num_simulations=30, chunk_size=10, store=path, **SETTINGS)
    assert read_sbc(path).attributes["status"] == "complete"
    (path / "chunk-00001.safetensors").rename(tmp_path / "away")
    part = read_sbc(path)
    assert part.num_simulations == 10
    assert part.attributes["status"] == "unfinished"
    assert "unfinished, 10 of 30 simulations, and 10 more after a gap" in part.verdict()
    (path / "chunk-00000.safetensors").unlink()
    with pytest.raises(ValueError, match="no finished simulation from the first on, but 10 after a gap"):
        read_sbc(path)
    again = sbc(KEY, model, algorithm=Conjugate(), num_simulations=30, store=path, **SETTINGS)
    np.testing.assert_array_equal(again.ranks, whole.ranks)
    assert read_sbc(path).attributes["status"] == "complete"


def test_other_versions_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "study"
    run = partial(sbc, KEY, model, algorithm=Conjugate(), store=path, **SETTINGS)
    run(num_simulations=2)
    card = json.loads((path / "study.json").read_text())
    (path / "study.json").write_text(json.dumps(card | {"versions": '{"jax": "0.0.1"}'}))
    with pytest.warns(UserWarning, match="begun with other versions of packages: .*0.0.1"):
        run(num_simulations=3)


def test_any_number_of_draws_has_a_histogram_of_ranks() -> None:
    """101 ranks have no divisor; bins of five and six ranks do as well."""
    draws, truth = normal(300, 1, seed=5)
    study = of_draws(draws, truth, ("a",))
    ranks = np.arange(300)[:, None] % 101
    shown = replace(study, records=study.records._replace(ranks=ranks, draws=np.zeros((300, 100, 1))))
    heights, edges, _ = reporting.rank_histogram_figure(shown).axes[0].patches[-1].get_data()
    assert len(heights) == 20
    assert edges[-1] == 1.0
    np.testing.assert_allclose(heights, 1.0, atol=0.2)
    assert np.sum(heights * np.diff(edges)) == pytest.approx(1.0)


def test_the_truth_is_one_of_the_draws_for_every_functional() -> None:
    """Whichever of the points is taken for the truth, its rank is that among all."""
    points = np.random.default_rng(6).standard_normal((12, 1, 16, 16)).cumsum(axis=-1)
    ranks = [
        functional_ranks(points[None, i], np.delete(points, i, axis=0)[None], num_bins=2).ranks[0] for i in range(12)
    ]
    ranks = np.delete(ranks, 2, axis=1)  # areas have ties
    np.testing.assert_array_equal(np.sort(ranks, axis=0), np.broadcast_to(np.arange(12)[:, None], ranks.shape))


def test_masked_pixels_leave_the_check_of_the_others_its_power() -> None:
    rng = np.random.default_rng(7)
    truth = rng.standard_normal((80, 1, 16, 16))
    draws = 0.8 * rng.standard_normal((80, 24, 1, 16, 16))
    whole = pixel_coverage(truth, draws).spread.z[0]
    truth[..., :4, :], draws[..., :4, :] = 0.0, 0.0
    assert pixel_coverage(truth, draws).spread.z[0] > 0.5 * whole
    assert whole > 10


def test_posterior_sbc_is_known_by_its_reference(tmp_path: Path) -> None:
    y, path = np.array([0.3, 1.1, 0.2]), tmp_path / "study"
    run = partial(posterior_sbc, KEY, model, y, algorithm=Conjugate(), num_simulations=4, store=path, **SETTINGS)
    run(num_reference=50)
    with pytest.raises(FileExistsError, match="the draws of the reference was 50 and is 60"):
        run(num_reference=60)
    over_prior = tmp_path / "prior"
    sbc(KEY, model, algorithm=Conjugate(), num_simulations=2, store=over_prior, **SETTINGS)
    with pytest.raises(FileExistsError, match="another study: the study was sbc"):
        posterior_sbc(KEY, model, y, algorithm=Conjugate(), store=over_prior, **SETTINGS)


@pytest.mark.slow
def test_posterior_sbc_with_chains_finds_a_wrong_engine_and_says_what_its_reference_is_worth() -> None:
    y = jnp.array([0.3, 1.1, 0.2])
    settings = {"num_chains": 2, "num_samples": 100, "num_draws": 19, "progress": False}
    run = partial(posterior_sbc, KEY, model, y, num_simulations=120, **settings)
    right = run(algorithm=bd.NUTS(num_warmup=100), num_reference=1000)
    assert right.tests.passes()
    assert float(right.attributes["reference_rhat"]) < 1.02
    assert float(right.attributes["reference_ess"]) > 300
    wrong = run(algorithm=Conjugate(width=0.5), num_reference=1000)
    assert not wrong.tests.passes()
    with pytest.warns(UserWarning, match="effective draws for 120 simulations: raise num_reference"):
        run(algorithm=bd.NUTS(num_warmup=100), num_reference=20)


def test_an_interrupted_reference_is_made_anew(tmp_path: Path, monkeypatch) -> None:
    y, path = np.array([0.3, 1.1, 0.2]), tmp_path / "study"
    run = partial(
        posterior_sbc,
        KEY,
        model,
        y,
        algorithm=Conjugate(),
        num_simulations=30,
        num_reference=50,
        store=path,
        **SETTINGS,
    )
    found = posterior_sbc.__globals__["sample"]

    def interrupted(*args, **kwargs):
        data = found(*args, **kwargs)
        data.attrs["status"] = "interrupted"
        return data

    with monkeypatch.context() as patched:
        patched.setitem(posterior_sbc.__globals__, "sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert not (path / "study.json").exists()
    assert run().num_simulations == 30
