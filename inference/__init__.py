"""Runs of the models: settings, command line, and what is kept of a run."""
