"""What moves time and bytes around a federation: everything that is not mathematics."""
