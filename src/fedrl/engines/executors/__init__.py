"""Executors of local work: `assign` records the jobs of selected agents, `train` computes them when they are due."""
