"""What is known: records of what was measured, doors that are closed, and the outcome of a bet.

Nothing here imports pytest. Only `cost` needs torch to be imported; `model_facts` imports it for
configurations that are not in its cache.
"""
