"""Where updates meet: a table of what agents hear, and what becomes of the updates that arrived."""
