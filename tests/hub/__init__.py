"""A hub of the tests' own, on loopback."""
