"""A federation in Flower whose agents do no work, for `benchmarks.flower`."""
