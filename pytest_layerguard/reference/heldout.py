"""The held-out text: stories of a seed that no training uses."""

from itertools import islice
from typing import Final

from pytest_layerguard.reference.stories import stories

SEED: Final = 1
STORIES: Final = 110


def heldout_text() -> str:
    """Writes the held-out text.

    Returns:
        ``STORIES`` stories with a blank line between them and a line feed at the end.
    """
    return "\n\n".join(islice(stories(SEED), STORIES)) + "\n"
