"""Lets the tests run pytest inside pytest; pytest allows this only at the root."""

pytest_plugins = ["pytester"]
