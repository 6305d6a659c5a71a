"""Maps of the dark matter density: what they say of Omega_m and sigma_8, from N-body simulations or from CAMELS."""
