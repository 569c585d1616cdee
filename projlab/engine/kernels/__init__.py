"""What replaces torch operators where it is faster."""
