"""The records everything else is made of: what crosses the wire, and what composes."""
