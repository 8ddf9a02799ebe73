"""A model in memory: loading it, running it layer by layer, and laying other weights over it."""
