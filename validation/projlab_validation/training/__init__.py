"""Training under constraints: convex problems with a known constrained optimum, every optimizer."""
