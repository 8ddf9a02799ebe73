"""The commands of the guide to many machines, with a stand-in for Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.markdown import blocks

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "clusters.md"
SBATCH = """\
#!/bin/bash
# Runs at once, one task after another; like Slurm it succeeds where a job does not.
for script; do :; done
count=$(sed -n 's/^#SBATCH --array=1-//p' "$script")
for task in $(seq "${count:-1}"); do
    SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=$count bash "$script" >>"$script.log" 2>&1
    echo $? >>"$script.codes"
done
echo 4711
"""
BET = """\
id: {id}
title: A bet
claim: It can go.
status: {status}
model: reference
intervention: {{skip_layers: {{layers: 2}}}}
measure: {{text: {{reference: heldout}}, tokens: 512, window: 64}}
criteria: {{lenient: perplexity_ratio <= {bar}}}
"""


@pytest.mark.slow
def test_parts_of_an_array_and_the_job_that_joins_them(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": '#!/bin/bash\nexec "$@"\n'}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "bets").mkdir()
    for id_, status, bar in (("holds", "proposed", 100), ("fails", "falsified", 100)):
        (tmp_path / "bets" / f"{id_}.yaml").write_text(BET.format(id=id_, status=status, bar=bar))
    commands = ""
    for block in blocks(GUIDE):
        if block.mark == "file":
            (tmp_path / block.reported).write_text(block.text)
        elif "sbatch" in block.text:
            commands = block.text
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    subprocess.run(
        ["bash", "-euc", commands],
        cwd=tmp_path,
        env={**os.environ, "PATH": os.pathsep.join(path), "COLUMNS": "100"},
        check=True,
    )
    codes = (tmp_path / "bets.sbatch.codes").read_text().split()
    assert sorted(codes) == ["0", "1"]
    assert (tmp_path / "verdict.sbatch.codes").read_text().split() == ["1"]
    joined = (tmp_path / "verdict.sbatch.log").read_text()
    assert "1 failed, 1 passed" in joined
    assert "fails" in (tmp_path / "bets.md").read_text()
    assert (tmp_path / "bets.html").exists()
