"""Projection onto {x : A x = b, G x <= h, lb <= x <= ub}: closed forms, and a general method."""
