"""Agents' blocks in worker processes, on one machine or on several."""
