"""The progress bar of a run: phase, steps of every chain, divergences and acceptance."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


class BlockReport(NamedTuple):
    """State of a run after a block of steps.

    Attributes:
        phase: "warm-up" or "sampling".
        step: steps of this phase that every chain has made.
        total: steps of this phase that every chain will make.
        divergences: divergent steps of this phase, over all chains.
        acceptance: mean acceptance rate of the block; NaN if the algorithm has none.
    """

    phase: str
    step: int
    total: int
    divergences: int
    acceptance: float


class ChainProgress:
    """Context manager that shows `BlockReport`s as bars on the terminal, or nothing if ``show`` is False."""

    def __init__(self, label: str, num_chains: int, show: bool) -> None:
        self._label = f"{label}, {num_chains} chain{'s' if num_chains > 1 else ''}"
        self._tasks: dict[str, int] = {}
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            disable=not show,
        )

    def __enter__(self) -> ChainProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, phase: str, total: int | None = None) -> None:
        """Show a bar for a phase; without a total it is only a spinner."""
        self._tasks[phase] = self._bars.add_task(f"{self._label}: {phase}", total=total, note="")

    def end(self, phase: str) -> None:
        """Remove the bar of a phase."""
        self._bars.remove_task(self._tasks.pop(phase))  # pyright: ignore[reportArgumentType]

    def update(self, report: BlockReport) -> None:
        """Move the bar of the report's phase."""
        note = f"{report.divergences} divergent"
        if report.acceptance == report.acceptance:
            note += f", acceptance {report.acceptance:.2f}"
        self._bars.update(self._tasks[report.phase], completed=report.step, note=note)  # pyright: ignore[reportArgumentType]


class TaskProgress:
    """One bar that counts what is done."""

    def __init__(self, label: str, total: int, show: bool) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            disable=not show,
        )
        self._task = self._bars.add_task(label, total=total)

    def __enter__(self) -> TaskProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def advance(self, num: int = 1) -> None:
        """Count ``num`` more."""
        self._bars.advance(self._task, num)
