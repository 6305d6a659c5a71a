"""What a run says to a reader: summary table, verdict, pictures, and one self-contained page that holds them all.

Input is a result DataTree (groups ``posterior``, ``sample_stats``, ``observed_data``, ``fields``, ``truth``), or the
result of a calibration study. This subpackage imports Matplotlib and ArviZ; nothing else in bayesdiff imports
it.
"""

from bayesdiff.reporting.calibration_page import write_calibration_report
from bayesdiff.reporting.figures_calibration import (
    coverage_figure,
    ecdf_figure,
    rank_histogram_figure,
    tarp_figure,
    z_contraction_figure,
)
from bayesdiff.reporting.figures_chains import rank_figure, trace_figure
from bayesdiff.reporting.figures_corner import corner_figure
from bayesdiff.reporting.figures_fields import field_panels, minkowski_figure, spectra_figure
from bayesdiff.reporting.figures_panels import Panel, panels_figure
from bayesdiff.reporting.finding import Finding
from bayesdiff.reporting.html_page import Picture, Section
from bayesdiff.reporting.page import write_report
from bayesdiff.reporting.summary import rich_table, summary_table, summary_text, write_summary
from bayesdiff.reporting.verdict import Verdict, verdict

__all__ = [
    "Finding",
    "Panel",
    "Picture",
    "Section",
    "Verdict",
    "corner_figure",
    "coverage_figure",
    "ecdf_figure",
    "field_panels",
    "minkowski_figure",
    "panels_figure",
    "rank_figure",
    "rank_histogram_figure",
    "rich_table",
    "spectra_figure",
    "summary_table",
    "summary_text",
    "tarp_figure",
    "trace_figure",
    "verdict",
    "write_calibration_report",
    "write_report",
    "write_summary",
    "z_contraction_figure",
]
