"""Equations on the parameters of an optimizer."""
