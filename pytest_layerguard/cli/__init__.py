"""The commands `python -m pytest_layerguard ...`, which need no test run."""
