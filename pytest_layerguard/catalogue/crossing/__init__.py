"""Which closed doors a bet stands in, and what it may say to be measured all the same."""
