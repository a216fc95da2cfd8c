"""From a configuration file to a run folder: build, run, record, evaluate, report."""
