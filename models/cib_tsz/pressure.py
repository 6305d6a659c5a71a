r"""The Compton y of a halo: the universal pressure profile of Arnaud et al. (2010, arXiv:0910.1234).

.. math:: y(\theta) = \frac{\sigma_T}{m_e c^2} P_{500} R_{500} \, g(\theta / \theta_{500}), \qquad
          g(x) = 2 \int_0^{\sqrt{25 - x^2}} p(\sqrt{x^2 + s^2}) \, ds,

p the generalised NFW profile, cut at 5 R_500. Halos are painted in Fourier space, where one function serves all sizes,

.. math:: \tilde y(\ell) = \frac{\sigma_T}{m_e c^2} P_{500} R_{500} \, \theta_{500}^2 \, G(\ell \theta_{500}), \qquad
          G(q) = 4 \pi \int_0^5 p(x) \frac{\sin q x}{q x} x^2 dx,

the Fourier transform of a sphere's projection being that of the sphere.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

P0, C500, GAMMA, ALPHA, BETA = 8.403, 1.177, 0.3081, 1.0510, 5.4905
EDGE = 5.0
THOMSON = 6.6524587e-25 * 3.0856776e24 / 510.99895
"""sigma_T / (m_e c^2) times a megaparsec [cm^3 / keV]."""
HYDROSTATIC = 0.8
"""Mass that X-rays and the profile see over the true mass, 1 - b."""


def profile(x: np.ndarray) -> np.ndarray:
    """p(x) for h = 0.7, x = r / R_500; see :func:`central_pressure` for other h."""
    scaled = C500 * np.asarray(x)
    return P0 / (scaled**GAMMA * (1.0 + scaled**ALPHA) ** ((BETA - GAMMA) / ALPHA))


def pressure_500(m500: np.ndarray, efunc: np.ndarray, h: float) -> np.ndarray:
    """P_500 [keV/cm^3] of true masses M_500c [solar masses], equation 13 of the paper with the hydrostatic bias.

    Args:
        m500: true M_500c, of any shape.
        efunc: H(z) / H0.
        h: Hubble constant over 100 km/s/Mpc.
    """
    h70 = h / 0.7
    scaled = HYDROSTATIC * np.asarray(m500) * h70 / 3e14
    return 1.65e-3 * efunc ** (8.0 / 3.0) * scaled ** (2.0 / 3.0 + 0.12) * h70**2 * h70**-1.5


@lru_cache(maxsize=1)
def _transform_table() -> tuple[np.ndarray, np.ndarray]:
    # 250 intervals of 16 nodes; x = u^2 makes the integrand smooth at the centre.
    nodes, weights = np.polynomial.legendre.leggauss(16)
    width = np.sqrt(EDGE) / 250
    u = (width * (np.arange(250)[:, None] + 0.5 * (nodes + 1.0))).ravel()
    x, dx = u**2, np.tile(width * weights, 250) * u
    log_q = np.linspace(np.log(1e-3), np.log(2e3), 1200)
    integrand = 4.0 * np.pi * profile(x) * x**2 * dx
    return log_q, np.array([np.sum(integrand * np.sinc(q * x / np.pi)) for q in np.exp(log_q)])


def transform(q: np.ndarray) -> np.ndarray:
    """G(q), of the shape of q = ell theta_500."""
    log_q, values = _transform_table()
    return np.interp(np.log(np.maximum(q, 1e-3)), log_q, values, right=0.0)


def amplitude(m500: np.ndarray, r500: np.ndarray, efunc: np.ndarray, h: float) -> np.ndarray:
    """The product sigma_T / (m_e c^2) P_500 R_500, without unit.

    R_500 is that of the mass which X-rays see, while halos are painted with the theta_500 of their true mass. Their
    integrated y is that of the profile for 1 - b = 0.87.

    Args:
        m500: true M_500c [solar masses].
        r500: true R_500c, proper [Mpc].
        efunc: H(z) / H0.
        h: Hubble constant over 100 km/s/Mpc.
    """
    return THOMSON * pressure_500(m500, efunc, h) * HYDROSTATIC ** (1.0 / 3.0) * np.asarray(r500)
