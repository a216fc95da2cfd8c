"""The numbers of the documentation, measured here."""
