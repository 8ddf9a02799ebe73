"""Measuring a bet: planning, sweeps, token scores, metrics, intervals, samples and the result cache."""
