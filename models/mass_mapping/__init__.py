"""Maps of dark matter from weak lensing: convergence from the masked, noisy shear of a survey."""
