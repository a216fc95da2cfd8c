"""Stages that compress an update: quantisation, sparsification, error feedback."""
