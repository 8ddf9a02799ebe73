"""The texts that bets are measured on: where they come from, and how they are cut into windows."""
