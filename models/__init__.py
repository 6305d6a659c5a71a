"""One file or folder for each problem: its data, its NumPyro model and its training recipe."""
