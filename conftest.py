"""Lets the tests run pytest inside pytest; pytest allows this only at the root."""

from hypothesis import settings

pytest_plugins = ["pytester"]

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
