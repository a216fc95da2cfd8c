"""What the commands print: progress while a run goes on, and its summary at the end."""
