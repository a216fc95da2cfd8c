"""How frames travel between processes: one small seam, and what is behind it."""
