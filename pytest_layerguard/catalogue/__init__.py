"""The catalogue: records of what was measured, closed doors, and the outcome of a bet.

Nothing here imports pytest. Only `cost` needs torch to be imported; `model_facts` imports it for
configurations that are not in its cache.
"""
