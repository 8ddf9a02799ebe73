"""What pytest is told of each outcome: passed, failed, skipped or warned, and the word."""

from __future__ import annotations
