"""What is measured of a trained network on the training maps: its gain, and the error that is left.

A network that is stopped while it still learns gives too little: the regression of the target on its output has a
slope above one. In one evaluation that hardly counts; in the reverse process it adds up, and draws lack power. A
denoiser of the right scale has errors that are uncorrelated with its output and with its input, per mode and noise
level, so the output is multiplied by a gain, and given a share of the whitened input, such that in each band of |k|

    sum V Re[ conj(N) (t - g N - f u) ] = 0,        sum V Re[ conj(u) (t - g N - f u) ] = 0,

with the pooled target t (:mod:`bayesdiff.windows`): the least squares of the field's error.

That holds for windows of the training maps in noise. A draw goes by the network's own fields, whose contrast falls a
little short, or goes too far, at every noise level, each error feeding the next. :func:`with_contrast` multiplies the
gain by one number, to be chosen so that draws of the prior have the contrast of the maps. It is for draws alone: a
likelihood asks about observed fields, of which the recalibrated network is the better regression.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.noise import Noise
from bayesdiff.diffusion.schedules import Schedule, noise_level
from bayesdiff.examples import draw_example
from bayesdiff.networks.band_table import BandTable, band_sum
from bayesdiff.networks.wiener import CONTRAST_ONSET, WienerDenoiser, contrast_table
from bayesdiff.windows import TrainingFields

GAIN_BOUNDS, FEEDBACK_BOUND = (0.5, 1.5), 0.2
RESIDUAL_BOUNDS = (1e-3, 1.5)
# Of the squared input, relative: a network that gives nothing keeps its gain.
RIDGE = 1e-4


def recalibrate(
    denoiser: WienerDenoiser,
    windows: TrainingFields,
    schedule: Schedule,
    noise: Noise,
    num: int = 256,
    pool_size: int = 2048,
    seed: int = 1,
) -> WienerDenoiser:
    """The denoiser with gain, feedback and residual variance measured on windows of the training maps.

    Args:
        denoiser: its present gain and feedback are not used.
        windows: training maps.
        schedule: the noise levels it covers are measured.
        noise: of the diffusion.
        num: windows per noise level.
        pool_size: windows over which the target is averaged.
        seed: of the windows and their noise.
    """
    table = denoiser.gain
    num_bands = table.values.shape[1]
    pool = windows.pool(jax.random.key(seed), pool_size)
    counts = band_sum(jnp.ones(pool.fields.shape[1:]), num_bands)
    span = (float(noise_level(schedule, 1e-6)), float(noise_level(schedule, 1.0 - 1e-6)))

    @jax.jit
    def measure(log_s, key, pool):
        t = schedule.time_of_noise_level(jnp.clip(jnp.exp(log_s), *span))

        def one(key):
            example = draw_example(key, t, pool, denoiser, schedule, noise)
            _, whitened, output = denoiser.raw(*example[:4])
            n, u, target, white = (
                jnp.fft.fft2(f, norm="ortho") for f in (output, whitened, example.target, example.white)
            )
            pairs = [(n, n), (n, u), (u, u), (n, target), (u, target)]
            fit = [_product(a, b, example.variance * example.importance, num_bands) for a, b in pairs]
            pairs = [(n, n), (n, u), (u, u), (n, white), (u, white), (white, white)]
            return jnp.stack(fit), jnp.stack([_product(a, b, example.importance, num_bands) for a, b in pairs])

        fit, error = (x.mean(axis=0) for x in jax.lax.map(one, jax.random.split(key, num), batch_size=16))
        nn, nu, uu, nt, ut = fit
        ridge = RIDGE * uu
        determinant = (nn + ridge) * (uu + ridge) - nu**2
        gain = ((uu + ridge) * (nt + ridge) - nu * ut) / determinant
        gain = jnp.clip(gain, *GAIN_BOUNDS)
        feedback = jnp.clip((ut - gain * nu) / (uu + ridge), -FEEDBACK_BOUND, FEEDBACK_BOUND)
        nn, nu, uu, nw, uw, ww = error
        left = ww - 2 * (gain * nw + feedback * uw) + gain**2 * nn + 2 * gain * feedback * nu + feedback**2 * uu
        return gain, feedback, jnp.clip(left / counts, *RESIDUAL_BOUNDS)

    keys = jax.random.split(jax.random.key(seed + 1), len(table.log_s))
    rows = [measure(log_s, key, pool) for log_s, key in zip(table.log_s, keys, strict=True)]
    gain, feedback, residual = (BandTable(table.log_s, jnp.stack(column)) for column in zip(*rows, strict=True))
    return replace(denoiser, gain=gain, feedback=feedback, residual_variance=residual)


def with_contrast(
    denoiser: WienerDenoiser, contrast: float, onset: tuple[float, float] | None = CONTRAST_ONSET
) -> WienerDenoiser:
    """The denoiser whose ``generator`` has its gain multiplied by ``contrast``.

    Args:
        denoiser: its present contrast is not used.
        contrast: the factor.
        onset: noise levels up to which the factor is one, and from which it is whole; None for all levels.

    Raises:
        ValueError: for a contrast that is not between 0.5 and 1.5, or an onset that is not two ascending noise levels.
    """
    if not 0.5 <= contrast <= 1.5:
        raise ValueError(f"contrast must be a factor near one, between 0.5 and 1.5, got {contrast}")
    if onset is not None and not 0.0 < onset[0] < onset[1]:
        raise ValueError(f"onset must be two noise levels above 0, the lower first, got {onset}")
    return replace(denoiser, contrast=contrast_table(contrast, denoiser.gain.log_s, onset))


def with_twin_at_large_scales(
    denoiser: WienerDenoiser, wavenumber: float, noise_levels: tuple[float, float]
) -> WienerDenoiser:
    """The denoiser that leaves large scales to the Wiener filter, of which the training maps have too few modes.

    A network that has seen a handful of large structures recalls them. That is worth nothing on other maps, and makes
    the probability flow bend sharply between the ones it has seen.

    Args:
        denoiser: recalibrated.
        wavenumber: bands that begin below this |k|, in cycles per pixel, are the filter's.
        noise_levels: the correction is whole up to the first and nothing from the second, linearly in log s between,
            at the levels of the denoiser's tables: at high noise only large scales are left to be corrected.

    Raises:
        ValueError: for a negative wavenumber, or noise levels that are not positive and ascending.
    """
    first, last = noise_levels
    if not (wavenumber >= 0.0 and 0.0 < first < last):
        raise ValueError(
            "wavenumber must not be negative and noise_levels positive and ascending, got "
            f"{wavenumber} and {noise_levels}"
        )
    table = denoiser.gain
    fade = 1.0 - jnp.clip((table.log_s - np.log(first)) / np.log(last / first), 0.0, 1.0)
    num_bands = table.values.shape[1]
    starts = jnp.arange(num_bands) / num_bands * np.hypot(0.5, 0.5)
    share = fade[:, None] * (starts >= wavenumber)

    # Of an output N whose errors are uncorrelated with it, w N explains 2 w - w^2 of what N does.
    explained = (2.0 * share - share**2) * (1.0 - denoiser.residual_variance.values)
    return replace(
        denoiser,
        gain=BandTable(table.log_s, share * table.values),
        feedback=BandTable(table.log_s, share * denoiser.feedback.values),
        residual_variance=BandTable(table.log_s, 1.0 - explained),
    )


def _product(a: jax.Array, b: jax.Array, weight: jax.Array, num_bands: int) -> jax.Array:
    return band_sum(weight * (jnp.conj(a) * b).real, num_bands)
