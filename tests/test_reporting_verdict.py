from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from bayesdiff.reporting import verdict

BOUNDS = {"H0": (50.0, 90.0)}


def _tree(seed: int = 0, shape: tuple[int, int] = (4, 500), **attrs: object) -> xr.DataTree:
    rng = np.random.default_rng(seed)
    both = ("chain", "draw")
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {
                    "H0": (both, 68 + 4 * rng.standard_normal(shape)),
                    "sigma": (both, 0.6 + 0.02 * rng.standard_normal(shape)),
                }
            ),
            "sample_stats": xr.Dataset(
                {"diverging": (both, np.zeros(shape, dtype=bool)), "energy": (both, rng.standard_normal(shape))}
            ),
        }
    )
    tree.attrs = {"algorithm": "NUTS", "status": "complete"} | attrs
    return tree


def _values(tree: xr.DataTree, group: str, name: str) -> np.ndarray:
    return tree.children[group].dataset[name].values


def _only(judged, severity: str, text: str) -> None:
    found = [f for f in judged.findings if f.severity == severity]
    assert len(found) == 1, judged
    assert text in found[0].what
    assert found[0].advice
    assert found[0].what in judged.sentence


def test_clean_chains_pass():
    judged = verdict(_tree(), bounds=BOUNDS)
    assert judged.converged
    assert judged.level == "good"
    assert judged.findings == ()
    assert judged.sentence.startswith("Converged: 4 chains of 500 draws, R-hat at most 1.0")
    assert str(judged).startswith(judged.sentence)


def test_clean_chains_pass_for_most_seeds():
    verdicts = [verdict(_tree(seed, (4, 1000)), bounds=BOUNDS) for seed in range(10)]
    assert all(v.converged for v in verdicts), [v.sentence for v in verdicts if not v.converged]


def test_chains_in_different_places():
    tree = _tree(shape=(4, 2000))
    _values(tree, "posterior", "H0")[0] += 3.0
    judged = verdict(tree, min_ess=1)
    assert not judged.converged
    assert judged.level == "bad"
    _only(judged, "failure", "R-hat over 1.01: H0 1.")
    assert judged.sentence.startswith("Do not use: R-hat")


def test_too_few_effective_draws():
    judged = verdict(_tree(shape=(4, 80)), max_rhat=1.2)
    assert not judged.converged
    assert {f.what.split(" under")[0] for f in judged.findings} == {"bulk ESS", "tail ESS"}
    assert "times longer" in judged.findings[0].advice


@pytest.mark.parametrize(("count", "severity", "converged"), [(1, "warning", True), (40, "failure", False)])
def test_divergences(count, severity, converged):
    tree = _tree()
    _values(tree, "sample_stats", "diverging").ravel()[:count] = True
    judged = verdict(tree)
    assert judged.converged is converged
    _only(judged, severity, f"{count} divergent transition")


def test_low_energy_exploration():
    tree = _tree()
    _values(tree, "sample_stats", "energy")[:] = np.cumsum(_values(tree, "sample_stats", "energy"), axis=1)
    judged = verdict(tree)
    assert judged.converged
    assert judged.level == "caution"
    _only(judged, "warning", "E-BFMI 0.0")


@pytest.mark.parametrize(("centre", "side"), [(50.0, "lower bound 50"), (90.0, "upper bound 90")])
def test_piled_on_a_prior_bound(centre, side):
    tree = _tree()
    rng = np.random.default_rng(1)
    sign = 1 if centre < 70 else -1
    _values(tree, "posterior", "H0")[:] = centre + sign * 4 * np.abs(rng.standard_normal((4, 500)))
    judged = verdict(tree, bounds=BOUNDS)
    assert judged.converged
    _only(judged, "warning", f"H0 is piled on its prior's {side}")
    assert judged.sentence.startswith("Converged, with reservations")
    assert verdict(tree).findings == ()


def test_a_flat_posterior_is_not_piled_but_uninformed():
    tree = _tree()
    _values(tree, "posterior", "H0")[:] = np.random.default_rng(1).uniform(50, 90, (4, 500))
    (found,) = verdict(tree, bounds=BOUNDS).findings
    assert found.severity == "note"
    assert "say almost nothing of H0" in found.what


def test_overlap_is_with_draws_of_the_prior_where_there_are_any():
    rng = np.random.default_rng(3)
    for width, silent in ((4.0, True), (40.0, False)):
        tree = _tree()
        tree["prior"] = xr.DataTree(
            xr.Dataset({"H0": (("chain", "draw"), 68 + width * rng.standard_normal((1, 4000)))})
        )
        assert bool(verdict(tree).findings) is silent


def test_a_collapsed_step_size_is_a_failure():
    tree = _tree()
    step_size = np.full((4, 500), 0.8)
    step_size[2] = 1e-3
    tree["sample_stats"] = xr.DataTree(xr.Dataset({"step_size": (("chain", "draw"), step_size)}))
    judged = verdict(tree)
    assert not judged.converged
    _only(judged, "failure", "collapsed step size: chain 2")


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="low < high"):
        verdict(_tree(), bounds={"H0": (90.0, 50.0)})


def test_surrogate_acceptance():
    passed = verdict(_tree(surrogate_rms=0.17, surrogate_converged=True))
    assert passed.level == "good"
    assert "0.17 nat" in passed.findings[0].what
    failed = verdict(_tree(surrogate_rms=0.9, surrogate_converged=False))
    assert not failed.converged
    _only(failed, "failure", "0.90 nat")
    for stored in (np.bool_(True), 1, "True"):
        assert verdict(_tree(surrogate_rms=0.17, surrogate_converged=stored)).converged
    assert not verdict(_tree(surrogate_rms=0.17, surrogate_converged="False")).converged
    assert not verdict(_tree(surrogate_rms=np.nan, surrogate_converged=True)).converged


def test_interrupted_run():
    judged = verdict(_tree(status="interrupted"))
    assert judged.converged
    _only(judged, "warning", "interrupted; 4 x 500 draws")


def test_draws_that_are_not_finite():
    tree = _tree()
    _values(tree, "posterior", "sigma")[2, 7] = np.inf
    judged = verdict(tree)
    assert not judged.converged
    _only(judged, "failure", "not finite: sigma 1")


def test_chains_that_never_moved():
    tree = _tree()
    _values(tree, "posterior", "H0")[:] = 70.0
    assert verdict(tree).findings[0].what == "constant: H0"
    judged = verdict(tree, bounds=BOUNDS)
    assert not judged.converged
    _only(judged, "failure", "never moved: H0")
    _values(tree, "posterior", "H0")[:] = np.array([60.0, 65.0, 70.0, 75.0])[:, None]
    assert "R-hat over 1.01: H0 inf" in verdict(tree).sentence


def test_one_chain_is_judged_by_its_halves():
    tree = _tree(shape=(1, 2000))
    assert verdict(tree).converged
    assert "one chain only" in verdict(tree).findings[0].what
    _values(tree, "posterior", "H0")[0, 1000:] += 4
    assert "R-hat" in verdict(tree).sentence


def test_a_handful_of_draws():
    judged = verdict(_tree(shape=(4, 2)))
    assert not judged.converged
    assert "only 2 draws" in judged.sentence


def test_a_result_without_posterior_is_refused():
    with pytest.raises(ValueError, match="no posterior"):
        verdict(xr.DataTree())
