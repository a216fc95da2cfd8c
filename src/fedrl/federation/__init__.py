"""A federation: the agent's half, the server's half, what combines in them, and what leaves an agent."""
