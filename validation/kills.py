"""Processes that are killed, for the studies of runs and campaigns that survive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def start(module: str, *arguments: str, compiled: Path) -> subprocess.Popen[bytes]:
    """Run a module of this package; what it compiles is kept in a folder, so that only the first one compiles."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen([sys.executable, "-m", module, *arguments], env={**os.environ, **cache})


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process.

    Raises:
        RuntimeError: it failed.
    """
    if process.wait() != 0:
        raise RuntimeError(f"a run ended with exit code {process.returncode}")


def seconds_of_writing(process: subprocess.Popen[bytes], written: Callable[[], int]) -> float:
    """Wait for a process; returns the seconds from the first change of ``written()`` to its end."""
    _await_write(process, written)
    clock = time.perf_counter()
    finish(process)
    return time.perf_counter() - clock


def kill(process: subprocess.Popen[bytes], written: Callable[[], int], delay: float) -> bool:
    """Kill a process (SIGKILL) so many seconds after ``written()`` changes; returns whether it was still running."""
    _await_write(process, written)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def _await_write(process: subprocess.Popen[bytes], written: Callable[[], int]) -> None:
    before = written()
    while process.poll() is None and written() == before:
        time.sleep(0.01)
