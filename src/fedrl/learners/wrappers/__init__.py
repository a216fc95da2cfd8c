"""Functions that take a learner and return one that is normalised, personalised or otherwise extended."""
