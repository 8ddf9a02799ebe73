"""Bets: the file, its types, its criteria, the verdict and the digest.

Nothing here measures anything: no torch, no pytest.
"""
