"""The only part of the package that knows pytest: hooks, options, items and reports."""
