"""What is done with the events of a run while it goes on: a display, lines for a log, TensorBoard events.

A sink is a function of one event; `fedrl.records` has the events.
"""
