"""Calibration: whether posteriors are true, from simulations with known truth. Arrays in, named results out.

Everything rests on one fact: given the data, the truth is one more draw of a correct posterior, so among its draws it
has every place with the same probability. Ranks, coverage, TARP and the checks of fields ask where it is; `sbc` makes
the simulations and the posteriors of any NumPyro model and looks at the ranks.

What runs models is loaded when it is first used, so that the statistics stay light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .coverage import Coverage, CoverageCurve, central_coverage, coverage, density_coverage
from .density_ranks import density_ranks, joint_density_ranks
from .ecdf import EcdfBand, EcdfTest, ecdf_band, ecdf_test, rank_counts, rank_ecdf
from .exchange import ExchangeTest, exchange_test
from .field_checks import FieldChecks, check_fields
from .field_coverage import BandCoverage, PixelCoverage, band_coverage, pixel_coverage
from .field_functionals import FunctionalRanks, field_tarp, functional_ranks
from .local_coverage import LocalCoverage, local_coverage
from .power_likelihood import Exponent, fit_exponent, gaussian_exponent
from .rank_tests import RankTests, chi_square, holm, location_and_scale, rank_tests
from .ranks import Thinned, rank_statistics, thin
from .sbc_records import Fault
from .sbc_result import Sbc, read_sbc
from .scores import ZScores, crps, energy_score, z_scores
from .tarp import Tarp, box_references, tarp, tarp_of_ranks

if TYPE_CHECKING:
    from .denoiser_errors import DenoiserErrors, check_denoiser
    from .sbc_fields import study_fields
    from .sbc_posterior import posterior_sbc
    from .sbc_problem import log_likelihood
    from .sbc_study import sbc, simulations

__all__ = [
    "BandCoverage",
    "Coverage",
    "CoverageCurve",
    "DenoiserErrors",
    "EcdfBand",
    "EcdfTest",
    "ExchangeTest",
    "Exponent",
    "Fault",
    "FieldChecks",
    "FunctionalRanks",
    "LocalCoverage",
    "PixelCoverage",
    "RankTests",
    "Sbc",
    "Tarp",
    "Thinned",
    "ZScores",
    "band_coverage",
    "box_references",
    "central_coverage",
    "check_denoiser",
    "check_fields",
    "chi_square",
    "coverage",
    "crps",
    "density_coverage",
    "density_ranks",
    "ecdf_band",
    "ecdf_test",
    "energy_score",
    "exchange_test",
    "fit_exponent",
    "field_tarp",
    "functional_ranks",
    "gaussian_exponent",
    "holm",
    "joint_density_ranks",
    "local_coverage",
    "location_and_scale",
    "log_likelihood",
    "pixel_coverage",
    "posterior_sbc",
    "rank_counts",
    "rank_ecdf",
    "rank_statistics",
    "rank_tests",
    "read_sbc",
    "sbc",
    "simulations",
    "study_fields",
    "tarp",
    "tarp_of_ranks",
    "thin",
    "z_scores",
]

# None of these modules has the name of what it holds, which importing it would hide.
_RUNNING = {
    "DenoiserErrors": ".denoiser_errors",
    "check_denoiser": ".denoiser_errors",
    "log_likelihood": ".sbc_problem",
    "posterior_sbc": ".sbc_posterior",
    "sbc": ".sbc_study",
    "simulations": ".sbc_study",
    "study_fields": ".sbc_fields",
}


def __getattr__(name: str) -> Any:
    if name not in _RUNNING:
        raise AttributeError(f"module 'bayesdiff.calibration' has no attribute {name!r}")
    value = getattr(import_module(_RUNNING[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
