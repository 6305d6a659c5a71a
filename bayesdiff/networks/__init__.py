"""Networks for fields on a pixel grid (Flax NNX)."""

from bayesdiff.networks.unet import UNet, UNetConfig

__all__ = ["UNet", "UNetConfig"]
