"""From token losses to metrics with intervals."""
