"""What a bet says: the file, its types, its criteria, its verdict and its digest.

Nothing here measures anything: no torch, no pytest.
"""
