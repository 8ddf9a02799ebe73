"""Coverage-guided fuzzing of bet files; needs atheris, and runs until it is stopped.

    python tests/fuzz/fuzz_bets.py NEW tests/fuzz/corpus/files -dict=tests/fuzz/bets.dict -max_total_time=600

NEW is a folder for inputs that reach something new. Ends with the input and a traceback where one
raises what it must not, or takes longer than -timeout seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["pytest_layerguard"]):
    from fuzz import targets

atheris.Setup(sys.argv, targets.bets)
atheris.Fuzz()
