"""What this machine and its user allow: devices, limits, readable paths, and how failures are reported."""
