"""Finite Markov decision processes: environments from transition tables, and dynamic programming on them."""
