"""A field under a mask and inhomogeneous noise of unknown level, with unknown calibration (arXiv:2211.12444)."""
