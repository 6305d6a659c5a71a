"""Calibration: whether posteriors are true, from simulations with known truth. Arrays in, named results out.

Everything rests on one fact: given the data, the truth is one more draw of a correct posterior, so among its draws it
has every place with the same probability. Ranks, coverage, TARP and the checks of fields ask where it is.
"""

from .coverage import Coverage, CoverageCurve, central_coverage, coverage, density_coverage
from .density_ranks import density_ranks, joint_density_ranks
from .ecdf import EcdfBand, EcdfTest, ecdf_band, ecdf_test, rank_counts, rank_ecdf
from .exchange import ExchangeTest, exchange_test
from .field_coverage import BandCoverage, PixelCoverage, band_coverage, pixel_coverage
from .field_functionals import FunctionalRanks, field_tarp, functional_ranks
from .local_coverage import LocalCoverage, local_coverage
from .rank_tests import RankTests, chi_square, holm, location_and_scale, rank_tests
from .ranks import Thinned, rank_statistics, thin
from .scores import ZScores, crps, energy_score, z_scores
from .tarp import Tarp, box_references, tarp, tarp_of_ranks

__all__ = [
    "BandCoverage",
    "Coverage",
    "CoverageCurve",
    "EcdfBand",
    "EcdfTest",
    "ExchangeTest",
    "FunctionalRanks",
    "LocalCoverage",
    "PixelCoverage",
    "RankTests",
    "Tarp",
    "Thinned",
    "ZScores",
    "band_coverage",
    "box_references",
    "central_coverage",
    "chi_square",
    "coverage",
    "crps",
    "density_coverage",
    "density_ranks",
    "ecdf_band",
    "ecdf_test",
    "energy_score",
    "exchange_test",
    "field_tarp",
    "functional_ranks",
    "holm",
    "joint_density_ranks",
    "local_coverage",
    "location_and_scale",
    "pixel_coverage",
    "rank_counts",
    "rank_ecdf",
    "rank_statistics",
    "rank_tests",
    "tarp",
    "tarp_of_ranks",
    "thin",
    "z_scores",
]
