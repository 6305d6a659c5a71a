from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from arviz_stats.sampling_diagnostics import ess, rhat
from arviz_stats.visualization import eti
from scipy.stats import norm

from bayesdiff.reporting import summary_table, summary_text, write_summary
from bayesdiff.reporting.summary import format_value


def _chains(seed: int = 0, correlation: float = 0.6, shape: tuple[int, int] = (4, 800)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    draws = np.empty(shape)
    draws[:, 0] = noise[:, 0]
    for i in range(1, shape[1]):
        draws[:, i] = correlation * draws[:, i - 1] + np.sqrt(1 - correlation**2) * noise[:, i]
    return draws


def _tree(**variables: np.ndarray) -> xr.DataTree:
    dims = ("chain", "draw", "axis")
    return xr.DataTree.from_dict(
        {"posterior": xr.Dataset({name: (dims[: v.ndim], v) for name, v in variables.items()})}
    )


def test_numbers_match_arviz():
    tree = _tree(
        H0=67 + 6 * _chains(1), omega_b=0.022 + 0.005 * _chains(2), theta=np.stack([_chains(3), _chains(4)], -1)
    )
    table = summary_table(tree)
    assert list(table.index) == ["H0", "omega_b", "theta[0]", "theta[1]"]
    expected = {
        "mean": tree["posterior"].to_dataset().mean(("chain", "draw")),
        "sd": tree["posterior"].to_dataset().std(("chain", "draw"), ddof=1),
        "rhat": rhat(tree),
        "ess_bulk": ess(tree, method="bulk"),
        "ess_tail": ess(tree, method="tail", prob=(0.05, 0.95)),
    }
    for column, values in expected.items():
        for name in table.index:
            key, _, index = name.partition("[")
            value = np.asarray(values[key].values)
            assert table.loc[name, column] == pytest.approx(
                float(value[int(index[:-1])] if index else value), rel=1e-10
            )
    for level, share in (("68", 0.68269), ("95", 0.95450)):
        interval = eti(tree, prob=share)["H0"].values
        assert [table.loc["H0", f"low_{level}"], table.loc["H0", f"high_{level}"]] == pytest.approx(interval, rel=1e-4)
    assert table.attrs["interval"] == "equal-tailed"


def test_intervals_of_a_gaussian_are_one_and_two_sigma():
    exact = norm.ppf((np.arange(40_000) + 0.5) / 40_000)
    row = summary_table(_tree(x=np.random.default_rng(0).permutation(exact).reshape(4, 10_000))).loc["x"]
    assert list(row[["low_95", "low_68", "high_68", "high_95"]]) == pytest.approx([-2, -1, 1, 2], abs=1e-3)


def test_truth_and_z():
    tree = _tree(H0=67 + 6 * _chains(1), t_star=0.5 + 0.01 * _chains(2))
    tree["truth"] = xr.DataTree(xr.Dataset({"H0": 70.0, "t_star": 0.5, "dust": (("a", "b", "c"), np.zeros((1, 8, 8)))}))
    table = summary_table(tree)
    assert table.loc["H0", "truth"] == 70
    assert table.loc["H0", "z"] == pytest.approx((table.loc["H0", "mean"] - 70) / table.loc["H0", "sd"])
    assert table.loc["H0", "z"] < 0
    assert abs(table.loc["t_star", "z"]) < 1


def test_constants_and_non_finite_draws_are_nan_safe():
    broken = _chains(1)
    broken[0, 3] = np.nan
    table = summary_table(_tree(fixed=np.full((4, 800), 0.3), broken=broken, all_broken=np.full((4, 800), np.nan)))
    assert table.loc["fixed", "mean"] == pytest.approx(0.3)
    assert table.loc[["fixed", "broken"], ["rhat", "ess_bulk", "ess_tail"]].isna().all(axis=None)
    assert np.isfinite(table.loc["broken", "mean"])
    assert np.isnan(table.loc["all_broken", "mean"])
    assert "0.3" in summary_text(table)


def test_derived_quantities_and_their_shape():
    tree = _tree(H0=67 + 6 * _chains(1))
    h = np.asarray(tree["posterior"]["H0"].values) / 100
    table = summary_table(tree, {"h": h})
    assert table.loc["h", "mean"] == pytest.approx(table.loc["H0", "mean"] / 100)
    assert table.loc["h", "rhat"] == pytest.approx(table.loc["H0", "rhat"], abs=1e-4)
    with pytest.raises(ValueError, match=r"'h' must be an array \(chain, draw\), got shape \(3200,\)"):
        summary_table(tree, {"h": h.ravel()})


def test_csv_holds_full_precision(tmp_path):
    table = summary_table(_tree(H0=67 + 6 * _chains(1)))
    read = pd.read_csv(write_summary(table, tmp_path / "summary.csv"), index_col="parameter")
    assert read.loc["H0", "mean"] == table.loc["H0", "mean"]


def test_text_is_aligned_and_leaves_out_an_unknown_truth():
    text = summary_text(summary_table(_tree(H0=67 + 6 * _chains(1), omega_b=0.022 + 0.005 * _chains(2))))
    rows = [line.rstrip() for line in text.splitlines() if "H0" in line or "omega_b" in line]
    assert len({len(row) for row in rows}) == 1
    assert "truth" not in text.splitlines()[1]


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [
        (67.412, 6.1, "67.4"),
        (0.022413, 0.0051, "0.0224"),
        (123456.0, 2000.0, "123456"),
        (0.3, 0.0, "0.3"),
        (np.nan, 1, "–"),
    ],
)
def test_numbers_have_the_digits_they_deserve(value, sd, text):
    assert format_value(value, sd) == text


def test_a_result_without_posterior_is_refused():
    with pytest.raises(ValueError, match="no posterior"):
        summary_table(xr.DataTree())
    with pytest.raises(ValueError, match="needs dims chain and draw"):
        summary_table(xr.DataTree.from_dict({"posterior": xr.Dataset({"x": ("draw", np.zeros(5))})}))
