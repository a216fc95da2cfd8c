"""Terminal output of the commands: progress during a run, and its summary at the end."""
