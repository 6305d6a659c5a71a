"""Dark matter behind galaxies: the posterior of a density field given the stars in it."""
