"""The asv suite: what projlab costs, how exact it is, and how it stands beside its peers.

It imports projlab only; peers' packages stay behind `benchmarks.peers`. `benchmarks/README.md` says
how to run it.
"""
