"""What NumPyro sees: diffusion models as probability distributions."""

from bayesdiff.distributions.flow import FlowTransform
from bayesdiff.distributions.noisy import NoisyDiffusion
from bayesdiff.distributions.noncentred import FlowReparam, noncentred
from bayesdiff.distributions.prior import DiffusionPrior

__all__ = ["DiffusionPrior", "FlowReparam", "FlowTransform", "NoisyDiffusion", "noncentred"]
