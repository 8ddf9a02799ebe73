"""`python -m pytest_layerguard`: write a bet, check it, and see what it would cost."""

import sys

from pytest_layerguard.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
