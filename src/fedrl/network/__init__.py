"""Agents at other sites: the clock and the executor of a simulation, with real time and real agents in their place."""
