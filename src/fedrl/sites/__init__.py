"""A site of a federation: its agent, what it keeps on disk, and what it lets out."""
