"""Importing the package stays light, and the lazy top level hands on every name that it promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bayesdiff as bd

PLOTTING_AND_COSMOLOGY = {"camb", "pixell", "matplotlib", "arviz", "xarray"}
INFERENCE = {"numpyro", "diffrax", "blackjax", "equinox"}


def imported_packages(module: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after importing ``module``."""
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("bayesdiff", PLOTTING_AND_COSMOLOGY | INFERENCE | {"jax"}),
        ("bayesdiff.training", PLOTTING_AND_COSMOLOGY | INFERENCE),
        ("bayesdiff.calibration", PLOTTING_AND_COSMOLOGY | INFERENCE),
        ("bayesdiff.fields", PLOTTING_AND_COSMOLOGY | INFERENCE),
    ],
)
def test_import_is_light(module: str, unwanted: set[str]) -> None:
    packages = imported_packages(module)
    assert "bayesdiff" in packages
    assert packages & unwanted == set()


@pytest.mark.parametrize("name", bd.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(bd, name) is getattr(bd, name)
    assert name in dir(bd)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nuts'"):
        _ = bd.nuts  # pyright: ignore[reportAttributeAccessIssue]


def test_models_with_bounded_sites_run_where_arviz_was_imported_first() -> None:
    program = """
import arviz_stats, jax, bayesdiff as bd
bd.NoisyDiffusion
import numpyro, numpyro.distributions as dist

def model(y=None):
    rate = numpyro.sample("rate", dist.LogUniform(0.1, 10.0))
    numpyro.sample("y", dist.Poisson(rate), obs=y)

bd.sample(jax.random.key(0), model, 3, algorithm=bd.NUTS(num_warmup=20), num_samples=2, progress=False)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
