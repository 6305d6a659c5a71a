"""Noise schedules: alpha(t), sigma(t), log-SNR and the diffusion time of a noise level.

A diffusion at time t in [0, 1] is z_t = alpha_t x + sigma_t Sigma^(1/2) n, with log-SNR lambda_t = log(alpha_t^2 /
sigma_t^2) falling from t = 0 to t = 1. Each schedule gives lambda_t and its inverse in closed form, so that the
diffusion time t* of an observation y = x + s Sigma^(1/2) n, which solves sigma_t / alpha_t = s, is exact and
continuous.

The variance-preserving schedules have alpha^2 + sigma^2 = 1; :class:`EDM` has alpha = 1. Where the textbook schedule
reaches zero or infinite noise (cosine, sigmoid), its log-SNR is cut at a stated bound, as in Kingma et al. (2021,
arXiv:2107.00630).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

from bayesdiff.diffusion.refusals import inside, refuse_outside


class Schedule(Protocol):
    """What a noise schedule provides; every method is elementwise and differentiable in t or s."""

    def alpha(self, t) -> jax.Array:
        """Signal amplitude alpha_t."""
        ...

    def sigma(self, t) -> jax.Array:
        """Noise amplitude sigma_t."""
        ...

    def log_snr(self, t) -> jax.Array:
        """log(alpha_t^2 / sigma_t^2)."""
        ...

    def time_of_noise_level(self, s) -> jax.Array:
        """The diffusion time t* with sigma_t / alpha_t = s."""
        ...


def noise_level(schedule: Schedule, t) -> jax.Array:
    """sigma_t / alpha_t, the noise level s of which t is the diffusion time."""
    return jnp.exp(-0.5 * schedule.log_snr(t))


def noise_level_range(schedule: Schedule) -> tuple[float, float]:
    """The noise levels (s at t = 0, s at t = 1) that a schedule covers."""
    with jax.ensure_compile_time_eval():
        return float(noise_level(schedule, 0.0)), float(noise_level(schedule, 1.0))


def _checked(schedule: Schedule, s) -> jax.Array:
    low, high = noise_level_range(schedule)
    refuse_outside("noise level", s, low, high, f"the range of {schedule!r}")
    s = jnp.asarray(s)
    return jnp.where(inside(s, low, high), s, jnp.nan)


@dataclass(frozen=True)
class VPLinear:
    """Variance-preserving schedule with beta(t) linear in t (Song et al. 2021, arXiv:2011.13456, appendix B)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _integral(self, t) -> jax.Array:
        t = jnp.asarray(t, dtype=float)
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def alpha(self, t) -> jax.Array:
        """alpha_t = exp(-B(t) / 2), B the integral of beta."""
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t) -> jax.Array:
        """sigma_t = sqrt(1 - exp(-B(t)))."""
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))

    def log_snr(self, t) -> jax.Array:
        """-log(exp(B(t)) - 1); infinite at t = 0."""
        return -jnp.log(jnp.expm1(self._integral(t)))

    def time_of_noise_level(self, s) -> jax.Array:
        """The positive root of B(t) = log(1 + s^2), in the form free of cancellation."""
        integral = jnp.log1p(_checked(self, s) ** 2)
        slope = self.beta_max - self.beta_min
        return 2.0 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2.0 * slope * integral))


def _vp_alpha(log_snr: jax.Array) -> jax.Array:
    return jnp.sqrt(jax.nn.sigmoid(log_snr))


@dataclass(frozen=True)
class Cosine:
    """Cosine schedule sigma / alpha = tan(pi t / 2) (Nichol & Dhariwal 2021), log-SNR cut at +-``log_snr_max``."""

    log_snr_max: float = 12.0

    def _edge(self) -> float:
        return 2.0 / math.pi * math.atan(math.exp(-0.5 * self.log_snr_max))

    def alpha(self, t) -> jax.Array:
        """Cosine of the angle."""
        return jnp.cos(self._angle(t))

    def sigma(self, t) -> jax.Array:
        """Sine of the angle."""
        return jnp.sin(self._angle(t))

    def log_snr(self, t) -> jax.Array:
        """-2 log tan of the angle."""
        return -2.0 * jnp.log(jnp.tan(self._angle(t)))

    def time_of_noise_level(self, s) -> jax.Array:
        """arctan(s), mapped back from the angle."""
        return (2.0 / jnp.pi * jnp.arctan(_checked(self, s)) - self._edge()) / (1.0 - 2.0 * self._edge())

    def _angle(self, t) -> jax.Array:
        edge = self._edge()
        return 0.5 * jnp.pi * (edge + (1.0 - 2.0 * edge) * jnp.asarray(t, dtype=float))


@dataclass(frozen=True)
class Sigmoid:
    """Sigmoid schedule (Jabri et al. 2022, arXiv:2212.11972): alpha^2 falls as a logistic function of t.

    Attributes:
        start: argument of the logistic function at t = 0.
        end: argument at t = 1.
        tau: temperature.
        clip: alpha^2 runs from 1 - clip to clip.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    clip: float = 1e-6

    def _fractions(self, t) -> tuple[jax.Array, jax.Array]:
        """(alpha^2, sigma^2), each as a sum of positive terms, so that neither is lost to rounding when small."""
        t = jnp.asarray(t, dtype=float)
        start, end, now = (
            jnp.asarray(x / self.tau) for x in (self.start, self.end, t * (self.end - self.start) + self.start)
        )
        length = jax.nn.sigmoid(end) - jax.nn.sigmoid(start)
        signal = (jax.nn.sigmoid(-now) - jax.nn.sigmoid(-end)) / length
        noise = (jax.nn.sigmoid(now) - jax.nn.sigmoid(start)) / length
        return self.clip + (1.0 - 2.0 * self.clip) * signal, self.clip + (1.0 - 2.0 * self.clip) * noise

    def alpha(self, t) -> jax.Array:
        """Square root of the signal fraction."""
        return jnp.sqrt(self._fractions(t)[0])

    def sigma(self, t) -> jax.Array:
        """Square root of one less the signal fraction."""
        return jnp.sqrt(self._fractions(t)[1])

    def log_snr(self, t) -> jax.Array:
        """Logit of the signal fraction."""
        signal, noise = self._fractions(t)
        return jnp.log(signal) - jnp.log(noise)

    def time_of_noise_level(self, s) -> jax.Array:
        """The logistic function inverted at sigma^2 = s^2 / (1 + s^2)."""
        first, last = (jax.nn.sigmoid(jnp.asarray(x / self.tau)) for x in (self.start, self.end))
        square = _checked(self, s) ** 2
        value = first + (square / (1.0 + square) - self.clip) / (1.0 - 2.0 * self.clip) * (last - first)
        return (self.tau * (jnp.log(value) - jnp.log1p(-value)) - self.start) / (self.end - self.start)


@dataclass(frozen=True)
class EDM:
    """Variance-exploding schedule with sigma^(1/rho) linear in t (Karras et al. 2022, arXiv:2206.00364, eq. 5)."""

    sigma_min: float
    sigma_max: float
    rho: float = 7.0

    def alpha(self, t) -> jax.Array:
        """One."""
        return jnp.ones_like(jnp.asarray(t, dtype=float))

    def sigma(self, t) -> jax.Array:
        """Noise level, from sigma_min at t = 0 to sigma_max at t = 1."""
        low, high = self.sigma_min ** (1.0 / self.rho), self.sigma_max ** (1.0 / self.rho)
        return (low + jnp.asarray(t, dtype=float) * (high - low)) ** self.rho

    def log_snr(self, t) -> jax.Array:
        """-2 log sigma_t."""
        return -2.0 * jnp.log(self.sigma(t))

    def time_of_noise_level(self, s) -> jax.Array:
        """The power law inverted."""
        low, high = self.sigma_min ** (1.0 / self.rho), self.sigma_max ** (1.0 / self.rho)
        return (_checked(self, s) ** (1.0 / self.rho) - low) / (high - low)


@dataclass(frozen=True)
class LearnedLinear:
    """Variance-preserving schedule with -log-SNR linear in t (Kingma et al. 2021, arXiv:2107.00630, appendix H)."""

    gamma_min: float = -13.3
    gamma_max: float = 13.3

    def alpha(self, t) -> jax.Array:
        """sqrt(sigmoid(log-SNR))."""
        return _vp_alpha(self.log_snr(t))

    def sigma(self, t) -> jax.Array:
        """sqrt(sigmoid(-log-SNR))."""
        return _vp_alpha(-self.log_snr(t))

    def log_snr(self, t) -> jax.Array:
        """-(gamma_min + (gamma_max - gamma_min) t)."""
        return -(self.gamma_min + (self.gamma_max - self.gamma_min) * jnp.asarray(t, dtype=float))

    def time_of_noise_level(self, s) -> jax.Array:
        """The line inverted at gamma = 2 log s."""
        return (2.0 * jnp.log(_checked(self, s)) - self.gamma_min) / (self.gamma_max - self.gamma_min)
