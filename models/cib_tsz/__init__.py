"""Correlated foregrounds: the cosmic infrared background and the thermal Sunyaev-Zel'dovich effect."""
