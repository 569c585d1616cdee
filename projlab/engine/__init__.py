"""From a system to an answer: variants, factors, derivatives."""
