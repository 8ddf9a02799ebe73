"""Judge bets on compressing language models, and remember which ones were lost."""

__all__ = ["LayerguardWarning", "__version__"]

__version__ = "0.1.0"


class LayerguardWarning(UserWarning):
    """Something a reader of the verdicts should know that does not fail the build."""
