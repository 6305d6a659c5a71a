"""The share of shot noise in maps of stars, against stars whose clustering is known to be none or all of it."""

from __future__ import annotations

import numpy as np
import pytest

from models.dark_matter.sets import mean_galaxies_per_pixel
from models.dark_matter.stars import draw_stars
from validation.dark_matter import EDGES, reach, shot_noise_limit, shot_noise_share


def test_stars_strewn_at_random_are_noise_at_every_scale() -> None:
    numbers = np.full((40, 64, 64), mean_galaxies_per_pixel())
    stars = draw_stars(np.random.default_rng(0), numbers)
    share = shot_noise_share(stars)
    np.testing.assert_allclose(share, 1.0, atol=0.2)
    assert share[-1] == pytest.approx(1.0, abs=0.03)
    assert shot_noise_limit(stars) < EDGES[2]
    assert reach(1.0 - share, 0.9) == 0.0


def test_what_is_not_noise_of_clustered_stars_is_common_to_two_skies_of_the_same_galaxies() -> None:
    rng = np.random.default_rng(1)
    bright = np.exp(1.5 * rng.normal(size=(40, 64, 64)) - 1.5**2 / 2.0)
    numbers = mean_galaxies_per_pixel() * bright / bright.mean()
    one, other = (draw_stars(rng, numbers)[:, None] for _ in range(2))
    expected = np.mean(np.square(one - other)) / 2.0 / one.var()
    assert shot_noise_share(one[:, 0])[-1] == pytest.approx(expected, rel=0.15)
