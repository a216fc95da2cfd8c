"""Stages that make an update smaller."""
