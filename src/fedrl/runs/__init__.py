"""Run an experiment: train every seed of every method, evaluate it, and write its run folder."""
