"""Unconditional priors of dust and of the large-scale structure, for generation and for denoising."""
