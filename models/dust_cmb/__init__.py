"""Blind separation of Galactic dust and the CMB (arXiv:2310.16285, arXiv:2402.19455)."""
