"""What NumPyro sees: diffusion models as probability distributions."""

from bayesdiff.distributions.noisy import NoisyDiffusion
from bayesdiff.distributions.prior import DiffusionPrior

__all__ = ["DiffusionPrior", "NoisyDiffusion"]
