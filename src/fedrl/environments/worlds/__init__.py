"""Worlds with several players: matrix games, a pursuit, foraging on a grid, and navigation in a plane."""
