"""Fixtures that every test file may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test; the rest of the suite keeps JAX's default of float32."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def _forget_float64(request: pytest.FixtureRequest) -> Iterator[None]:
    """JAX keeps what it traced: after a file in float64, one in float32 found traces that could not be lowered."""
    yield
    if any(item.path == request.path and "x64" in getattr(item, "fixturenames", ()) for item in request.session.items):
        jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the maps that are not part of the repository; the test is skipped where they are absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the external maps in ../shared/data beside the repository, which are not part of it")
    return folder
