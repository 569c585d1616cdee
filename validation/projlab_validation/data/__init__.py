"""The 49 real systems: .npz files, INDEX.csv with their traps, README.md with their sources."""
