"""Simulated convergence, and the shear of the HST-COSMOS survey, on pixels of 1.74 arcmin.

Both come from CosmoStat/jax-lensing (Remy et al. 2023, arXiv:2201.05561). The shear is that of galaxies averaged over
pixels of 0.29 arcmin; six by six of them make one pixel here, weighted by their inverse variance, 60 x 60 in all, in
the middle of 64 x 64.

The prior is trained on a kappaTNG map (Osato, Liu & Haiman 2021, arXiv:2010.09731; 5 degrees on 1024 pixels, which is
0.293 arcmin, taken as 0.29). A MassiveNuS map (Liu et al. 2018, arXiv:1711.10524) is held out. The files do not say
their pixels. That of MassiveNuS is **assumed** to be the native one of that suite, 3.5 degrees on 512 pixels or 0.41
arcmin; the spectrum of the map fits both that and 0.29 arcmin, and the repository keeps a COSMOS mask of 0.4 arcmin
beside it. Each simulation is of one cosmology and one source redshift, near 1, which stand in for those of COSMOS.

The convention of the ellipticities was settled by the data: taken as stored, e1 along the columns and e2 positive
along the diagonal of growing row and column, the variance of the E mode smoothed over a pixel exceeds that of noise by
24 standard deviations and that of the B mode by 6 (the mask mixes them); with the sign of e2 turned it is 18 and 13.
The highest peak of the E mode is positive, 5 standard deviations, and the lowest is -2.7: mass has the right sign.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bayesdiff.fields.patches import regrid
from models.shared_data import data_folder

PATCH_SIZE = 64
PIXEL_ARCMIN = 1.74
FACTOR = 6
SIMULATIONS, SURVEY = "wl_kappa_sims.npz", "wl_cosmos_shear.npz"
SHIFT = 0.045
"""Convergence is nearly a shifted lognormal field (Taruya et al. 2002, astro-ph/0202090). With this shift the logarithm
of the training map has a skewness of 0.2, the convergence itself one of 3; its least value is -0.040."""
HELD_OUT_FACTOR = PIXEL_ARCMIN / (3.5 * 60.0 / 512.0)


class LogConvergence(NamedTuple):
    """The scale on which convergence is nearly Gaussian: x = (log(1 + kappa / shift) - mean) / sd.

    Attributes:
        shift: convergence that is added before the logarithm.
        mean: of the logarithm over the training map.
        sd: of the logarithm over the training map.
    """

    shift: float
    mean: float
    sd: float

    def field(self, kappa: np.ndarray) -> np.ndarray:
        """The standardised field x of a convergence.

        Raises:
            ValueError: a convergence is not above ``-shift``.
        """
        if not np.min(kappa) > -self.shift:
            raise ValueError(f"convergence must be above {-self.shift}, got {np.min(kappa):.4g}")
        return (np.log1p(np.asarray(kappa) / self.shift) - self.mean) / self.sd

    def convergence(self, x: Any) -> Any:
        """The convergence of a standardised field x."""
        return self.shift * jnp.expm1(self.mean + self.sd * x)


class Convergence(NamedTuple):
    """Simulated convergence on pixels of 1.74 arcmin, as the standardised field x of its scale.

    Attributes:
        training: one map at all 36 positions of the coarse pixels, (36, 1, 84, 84), not periodic.
        held_out: a map of another simulation, (1, 1, 75, 75), not periodic.
        scale: of the training map.
    """

    training: np.ndarray
    held_out: np.ndarray
    scale: LogConvergence


class Survey(NamedTuple):
    """Where a survey looked, and how deep.

    Attributes:
        mask: 1 where a pixel was observed, else 0, (H, W).
        noise_sd: standard deviation of the noise of e1 and e2, (2, H, W); zero where nothing was observed.
    """

    mask: np.ndarray
    noise_sd: np.ndarray


class ShearMap(NamedTuple):
    """An observed shear and what is known of it.

    Attributes:
        shear: e1 and e2, (2, H, W) float32; zero where nothing was observed.
        survey: mask and noise.
        description: what it is, a phrase.
        truth: the convergence ``kappa`` (1, H, W) and the ``level`` of the noise, where they are known.
    """

    shear: np.ndarray
    survey: Survey
    description: str
    truth: dict[str, np.ndarray] | None = None


def load_convergence(folder: Path | None = None) -> Convergence:
    """Read and regrid the simulated maps, and put them on the scale of the training map."""
    with np.load((folder or data_folder(SIMULATIONS)) / SIMULATIONS, allow_pickle=False) as file:
        fine, other = file["ktng"].astype(np.float64), file["massivenus"].astype(np.float64)
    size = (min(fine.shape) - FACTOR + 1) // FACTOR
    training = np.stack([
        regrid(fine[row : row + size * FACTOR, column : column + size * FACTOR], FACTOR)
        for row in range(FACTOR)
        for column in range(FACTOR)
    ])[:, None]  # fmt: skip
    logarithm = np.log1p(training / SHIFT)
    scale = LogConvergence(SHIFT, float(logarithm.mean()), float(logarithm.std()))
    held_out = regrid(other, HELD_OUT_FACTOR)[None, None]
    return Convergence(scale.field(training).astype(np.float32), scale.field(held_out).astype(np.float32), scale)


def load_cosmos(folder: Path | None = None) -> ShearMap:
    """The HST-COSMOS shear on 64 x 64 pixels of 1.74 arcmin."""
    with np.load((folder or data_folder(SURVEY)) / SURVEY, allow_pickle=False) as file:
        arrays = {name: file[name].astype(np.float64) for name in file.files}
    noise_sd, mask = np.stack([arrays["std1"], arrays["std2"]]), arrays["mask"] > 0
    shear, survey = average_shear(np.stack([arrays["e1"], arrays["e2"]]), noise_sd, mask, FACTOR)
    return pad(ShearMap(shear, survey, "HST-COSMOS shear"), PATCH_SIZE)


def average_shear(shear: np.ndarray, noise_sd: np.ndarray, mask: np.ndarray, factor: int) -> tuple[np.ndarray, Survey]:
    """Average blocks of ``factor`` x ``factor`` pixels, those observed, with weights 1 / noise_sd^2.

    Args:
        shear: e1 and e2, (2, H, W).
        noise_sd: of each, (2, H, W); looked at where the mask is 1 only.
        mask: 1 where a pixel was observed, else 0, (H, W).
        factor: side of a block, which must divide H and W.

    Returns:
        The averaged shear (2, H / factor, W / factor) in float32, and the survey: a block is observed if one of its
        pixels is, and its noise is that of the weighted mean.

    Raises:
        ValueError: the shapes do not fit, nothing was observed, the noise is not positive or the shear not finite.
    """
    mask = np.asarray(mask, dtype=bool)
    check_survey(Survey(mask, noise_sd), mask.shape)
    height, width = mask.shape
    if np.shape(shear) != (2, height, width):
        raise ValueError(f"shear must have shape {(2, height, width)}, that of the mask with two channels, got "
                         f"{np.shape(shear)}")  # fmt: skip
    if not np.isfinite(np.asarray(shear)[:, mask]).all():
        raise ValueError("the shear must be finite wherever the mask is 1")
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"factor must divide the sides {height} and {width} of the map, got {factor}")
    weight = np.where(mask, 1.0 / np.where(mask, noise_sd, 1.0) ** 2, 0.0)
    total = _block_sums(weight, factor)
    seen = total[0] > 0
    safe = np.where(seen, total, 1.0)
    mean = _block_sums(weight * np.where(mask, shear, 0.0), factor) / safe
    return mean.astype(np.float32), Survey(seen, np.where(seen, safe**-0.5, 0.0).astype(np.float32))


def pad(observed: ShearMap, size: int) -> ShearMap:
    """The same map in the middle of a larger one, (2, size, size), unobserved around it."""
    height, width = observed.survey.mask.shape
    if max(height, width) > size:
        raise ValueError(f"a map of {height} x {width} pixels does not fit in {size} x {size}")
    top, left = (size - height) // 2, (size - width) // 2
    edges = ((top, size - height - top), (left, size - width - left))
    survey = Survey(np.pad(observed.survey.mask, edges), np.pad(observed.survey.noise_sd, ((0, 0), *edges)))
    return observed._replace(shear=np.pad(observed.shear, ((0, 0), *edges)), survey=survey)


def check_survey(survey: Survey, shape: tuple[int, int]) -> None:
    """Refuse a mask and noise that cannot belong to maps of ``shape``.

    Raises:
        ValueError: wrong shapes, an empty mask, or noise that is not positive and finite where the mask is 1.
    """
    mask, noise_sd = np.asarray(survey.mask, dtype=bool), np.asarray(survey.noise_sd)
    if mask.shape != tuple(shape):
        raise ValueError(f"mask must have shape {tuple(shape)}, got {mask.shape}")
    if noise_sd.shape != (2, *shape):
        raise ValueError(f"noise_sd must have shape {(2, *shape)}, got {noise_sd.shape}")
    if not mask.any():
        raise ValueError("the mask must leave a pixel: it is 0 everywhere")
    bad = ~((noise_sd > 0) & np.isfinite(noise_sd)) & mask
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"noise_sd must be positive and finite wherever the mask is 1, got {noise_sd[first]} at {first} and "
            f"{np.count_nonzero(bad)} such values in all"
        )


def _block_sums(field: np.ndarray, factor: int) -> np.ndarray:
    channels, height, width = field.shape
    return field.reshape(channels, height // factor, factor, width // factor, factor).sum(axis=(2, 4))
