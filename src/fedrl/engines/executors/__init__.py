"""How local work is run: who is sent for is noted by `assign`, and learns in `train`, when its update is due."""
