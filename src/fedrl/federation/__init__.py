"""Build federations: the agent's half, the server's half, the checks of their parts, and what leaves an agent."""
