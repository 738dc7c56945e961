"""The embedded synthetic dataset, and samplers."""
