"""Messages as bytes: the codec, and formats for what a stage sends in place of arrays."""
