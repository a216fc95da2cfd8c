"""Define the records that all other modules use: messages, and the components of a federation."""
