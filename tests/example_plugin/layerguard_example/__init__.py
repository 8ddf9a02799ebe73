"""Adds an intervention, a metric and report lines to pytest-layerguard."""
