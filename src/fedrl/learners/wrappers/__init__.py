"""Learners made of another learner: normalised, personalised, mixed."""
