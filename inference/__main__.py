"""The command line: ``python -m inference`` lists the problems that can be run, and what can be done with runs.

A new problem is a module with one function, its options annotated for Typer, and one line below.
"""

from __future__ import annotations

import typer

from inference.cib_tsz import cib_tsz
from inference.dark_matter import dark_matter
from inference.density_fields import density_fields
from inference.dust_cmb import dust_cmb
from inference.masked_map import masked_map
from inference.mass_mapping import mass_mapping
from inference.runs import resume, show

app = typer.Typer(
    name="python -m inference",
    help="Run a model on data: from an observation to a posterior, a verdict and a report.",
    pretty_exceptions_show_locals=False,
    add_completion=False,
    rich_markup_mode="rich",
)
app.command("dust_cmb")(dust_cmb)
app.command("masked_map")(masked_map)
app.command("mass_mapping")(mass_mapping)
app.command("density_fields")(density_fields)
app.command("dark_matter")(dark_matter)
app.command("cib_tsz")(cib_tsz)
app.command("resume")(resume)
app.command("show")(show)


@app.callback(invoke_without_command=True)
def commands(context: typer.Context) -> None:
    """Without a command: say which there are."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


if __name__ == "__main__":
    app(prog_name="python -m inference")
