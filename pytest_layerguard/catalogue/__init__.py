"""What is known: records of what was measured, doors that are closed, and what a bet came to.

Nothing here imports pytest. What loads torch does so when it is called, but for `cost`, which plans.
"""
