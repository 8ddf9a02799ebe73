"""Token loss differences as texts make them: correlated within windows, with heavy tails, skewed; mean 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]
Process = Callable[[np.random.Generator, int, int], Array]
"""Draws ``[runs, windows, TOKENS]`` differences whose expectation is 0."""

TOKENS = 64
"""Tokens of a window."""


def _correlated(random: np.random.Generator, runs: int, length: int) -> Array:
    """AR(1) with a coefficient of 0.5, from t-distributed shocks with 4 degrees of freedom."""
    shocks = random.standard_t(4, (runs, length + 16))
    return np.asarray(lfilter([1.0], [1.0, -0.5], shocks, axis=-1)[:, 16:])


def _windowed(effects: Callable[[np.random.Generator, int, int], Array]) -> Process:
    def draw(random: np.random.Generator, runs: int, windows: int) -> Array:
        tokens = _correlated(random, runs * windows, TOKENS).reshape(runs, windows, TOKENS)
        return tokens + effects(random, runs, windows)[..., None]

    return draw


def _running_on(random: np.random.Generator, runs: int, windows: int) -> Array:
    """The correlation within a window runs on into the next one, as it does in a text that is cut."""
    tokens = _correlated(random, runs, windows * TOKENS).reshape(runs, windows, TOKENS)
    return tokens + random.normal(0, 0.25, (runs, windows, 1))


def _skewed(random: np.random.Generator, runs: int, windows: int) -> Array:
    """Window effects from a gamma distribution with a skewness of 1, as a few windows suffer most."""
    return np.asarray(0.35 * (random.gamma(4, 1, (runs, windows)) - 4) / 2)


SYNTHETIC: Mapping[str, Process] = {
    "AR(1), normal window effects": _windowed(lambda r, n, g: r.normal(0, 0.35, (n, g))),
    "AR(1) running on over windows": _running_on,
    "AR(1), heavy-tailed window effects": _windowed(lambda r, n, g: 0.2 * r.standard_t(3, (n, g))),
    "AR(1), skewed window effects": _windowed(_skewed),
}


def resampled(measured: Array, about: float | None = None) -> Process:
    """Whole windows of measured numbers ``[n]``, drawn with replacement, about a number or their own mean."""
    count = len(measured) // TOKENS
    taken = measured[: count * TOKENS].reshape(count, TOKENS)
    centred = taken - (taken.mean() if about is None else about)

    def draw(random: np.random.Generator, runs: int, windows: int) -> Array:
        return np.asarray(centred[random.integers(0, count, (runs, windows))])

    return draw


def sweep(process: Process, layers: int) -> Process:
    """Several variants on the same tokens, half of what happens to them in common: ``[layers, windows, TOKENS]``."""

    def draw(random: np.random.Generator, runs: int, windows: int) -> Array:
        assert runs == 1
        common, own = process(random, 1, windows), process(random, layers, windows)
        return np.asarray((common + own) * np.sqrt(0.5))

    return draw
