"""What a run says to a reader: summary table, verdict, pictures, and one self-contained page that holds them all.

Input everywhere is a result DataTree (groups ``posterior``, ``sample_stats``, ``observed_data``, ``fields``,
``truth``). This subpackage imports Matplotlib and ArviZ; nothing else in bayesdiff imports it.
"""

from bayesdiff.reporting.figures_chains import rank_figure, trace_figure
from bayesdiff.reporting.figures_corner import corner_figure
from bayesdiff.reporting.figures_fields import field_panels, minkowski_figure, spectra_figure
from bayesdiff.reporting.finding import Finding
from bayesdiff.reporting.page import Picture, write_report
from bayesdiff.reporting.summary import rich_table, summary_table, summary_text, write_summary
from bayesdiff.reporting.verdict import Verdict, verdict

__all__ = [
    "Finding",
    "Picture",
    "Verdict",
    "corner_figure",
    "field_panels",
    "minkowski_figure",
    "rank_figure",
    "rich_table",
    "spectra_figure",
    "summary_table",
    "summary_text",
    "trace_figure",
    "verdict",
    "write_report",
    "write_summary",
]
