"""Experiments: runtime, training, probes, results with their provenance, plots."""
