"""The bounds section: projections onto polyhedra, against exact ones."""
