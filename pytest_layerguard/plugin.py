"""The hooks by which pytest knows this package."""
