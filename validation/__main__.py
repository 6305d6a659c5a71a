"""Command line: ``python -m validation NAME`` runs a study, ``python -m validation figures`` all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from validation.figures import RESULTS, Figure, markdown, report, show, stored


def _densities() -> list[Figure]:
    from validation import densities

    return densities.run()


def _engines() -> list[Figure]:
    from validation import engines

    return engines.run()


def _emulator() -> list[Figure]:
    from validation import emulator

    return emulator.run()


def _prior() -> list[Figure]:
    from validation import prior

    return prior.run()


def _estimators() -> list[Figure]:
    from validation import estimators

    return estimators.run()


def _mixtures() -> list[Figure]:
    from validation import mixtures

    return mixtures.run()


def _cross_check() -> list[Figure]:
    from validation import mixtures

    return mixtures.cross_check()


def _timing() -> list[Figure]:
    from validation import study

    return study.timing()


def _real() -> list[Figure]:
    from validation import study

    return study.real()


STUDIES: dict[str, tuple[Callable[[], list[Figure]], str]] = {
    "densities": (_densities, "log densities against the closed form on the analytic twin"),
    "engines": (_engines, "every engine on the analytic twin"),
    "emulator": (_emulator, "the CMB emulator against CAMB, the flat sky against the curved one"),
    "prior": (_prior, "draws of the shipped prior against its training maps"),
    "estimators": (_estimators, "estimators of the log density on the shipped prior"),
    "timing": (_timing, "the default run from start to report"),
    "mixtures": (_mixtures, "40 mixtures of held-out dust with known truth"),
    "cross_check": (_cross_check, "Gibbs against the surrogate on five mixtures"),
    "real": (_real, "four patches of real dust"),
}

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


def _add(name: str, run: Callable[[], list[Figure]], text: str) -> None:
    @app.command(name, help=text[0].upper() + text[1:] + ".")
    def command() -> None:
        if not report(name, run()):
            raise typer.Exit(1)


for _name, (_run, _text) in STUDIES.items():
    _add(_name, _run, _text)


@app.command()
def figures(
    again: Annotated[bool, typer.Option(help="Run studies anew whose figures are stored.")] = False,
    folder: Annotated[Path, typer.Option(help="Where figures are stored.")] = RESULTS,
) -> None:
    """Run every study that has not been run and print all figures."""
    met = True
    for name, (run, _) in STUDIES.items():
        known = None if again else stored(name, folder)
        if known is None:
            known = run()
            report(name, known, folder)
        else:
            show(name, known)
        met = met and all(figure.met is not False for figure in known)
    if not met:
        raise typer.Exit(1)


@app.command()
def readme(
    path: Annotated[Path, typer.Argument(help="File with two comments around the table.")] = Path("README.md"),
    folder: Annotated[Path, typer.Option(help="Where figures are stored.")] = RESULTS,
) -> None:
    """Write the stored figures into the README."""
    begin, end = "<!-- figures -->", "<!-- end of figures -->"
    text = path.read_text()
    if begin not in text or end not in text:
        typer.echo(f"{path} has no {begin} ... {end}", err=True)
        raise typer.Exit(2)
    known = {name: figures for name in STUDIES if (figures := stored(name, folder)) is not None}
    head, tail = text.split(begin)[0], text.split(end)[1]
    path.write_text(f"{head}{begin}\n{markdown(known)}\n{end}{tail}")


if __name__ == "__main__":
    app()
