"""Blocks: independent parts of a constraint on parameters, one file a kind, applied in place.

Each block holds A_i and W_i for the parameters p_i it touches, W = [W_1 W_2 ...] with orthonormal
rows that span those of A = [A_1 A_2 ...], and K with K A = W: with r = sum_i A_i p_i - b,
the projection is p_i -= W_i' K r, and the tangent projection g_i -= W_i' sum_j W_j g_j. The
residual is taken with A itself, so that rounding in the factors cannot pass for feasibility.

A block of sparse rows has no W: it solves with a sparse factor of A A' instead, and corrects until
the residual is rounding.
"""
