"""Encode messages as bytes: the codec, and formats for the nodes that a stage sends instead of arrays."""
