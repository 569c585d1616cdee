"""Arithmetic that knows nothing of projections."""
