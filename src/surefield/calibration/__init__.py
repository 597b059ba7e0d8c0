"""Calibration: from raw spreads and held-out residuals to standard deviations, and how good these are."""
