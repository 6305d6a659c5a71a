"""The diffusion itself: schedules, noise, denoisers, samplers, densities, storage."""
