"""What is known: records of what was measured, doors that are closed, and what a bet came to.

Nothing here imports pytest, and torch only inside the function that counts a model's parameters.
"""
