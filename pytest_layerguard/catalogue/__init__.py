"""The catalogue: records of what was measured, closed doors, and the outcome of a bet.

Nothing here imports pytest or, to be read, torch. `model_facts` imports torch for models whose
configuration is neither in its cache nor beside tensors with the usual names.
"""
