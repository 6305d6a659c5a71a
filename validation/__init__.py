"""Calibration campaigns, tables against the literature, and thresholds with their derivation."""
