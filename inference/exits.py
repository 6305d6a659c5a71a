"""How the commands end: their exit statuses, and errors said in one sentence on the error stream."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

CONVERGED, BAD_INPUT, NOT_CONVERGED, INTERRUPTED = 0, 2, 3, 130


@contextmanager
def speaking(
    interrupted: str | Callable[[], str] = "Interrupted.", bad: tuple[type[Exception], ...] = (ValueError, OSError)
) -> Iterator[None]:
    """Within it bad input leaves with one sentence and status 2, an interruption with another and status 130.

    Args:
        interrupted: what is said when the user interrupts.
        bad: exceptions that stand for bad input; others pass.
    """
    try:
        yield
    except bad as error:
        leave(f"Error: {sentence(error)}", BAD_INPUT)
    except KeyboardInterrupt:
        leave(interrupted if isinstance(interrupted, str) else interrupted(), INTERRUPTED)


def leave(words: str, status: int) -> NoReturn:
    """Say why on the error stream, and leave with a status."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(words, markup=False, soft_wrap=True)
    raise typer.Exit(status) from None


def sentence(error: Exception) -> str:
    """What an error says, on one line; an OSError of the system with its file."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def command_line() -> str:
    """The command that redoes this run."""
    return shlex.join(["python", "-m", "inference", *sys.argv[1:]])
