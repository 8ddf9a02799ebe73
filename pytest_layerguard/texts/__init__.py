"""The texts that a bet is measured on: where they come from, and how they are cut into windows."""
