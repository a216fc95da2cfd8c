"""How many agents fit on this machine: rounds with more and more agents, until a limit is broken."""
