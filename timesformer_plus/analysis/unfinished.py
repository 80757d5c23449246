"""What a run that was begun and not finished has in its folder: to go on from, or to throw away."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ..engine.run_folder import RunFolder
from ..engine.training_state import newest_state
from .processes import FolderBusyError
from .runs import Run

LOCK = ".lock"  # of the training, see ``RunFolder.hold``
# What a sweep leaves in a folder before it has written run.yaml: how a job ended that did not get so far, the lock of
# ``clear``, and files that were about to take the place of others (see ``atomic_file``) when it was killed.
_BEFORE_RUN_YAML = re.compile(r"sweep\.json|\.lock|\.(run\.yaml|sweep\.json)\.\d+")


def holds_strangers(run: Run) -> bool:
    """Whether the folder of a run holds files that are no run's: there is no run.yaml, nor what comes before it."""
    if run.config.is_file() or not run.folder.exists():
        return False
    return not all(_BEFORE_RUN_YAML.fullmatch(path.name) for path in run.folder.iterdir())


def resume_point(run: Run) -> tuple[Path | None, str]:
    """Find the checkpoint that the training of a run will go on from.

    Args:
        run: Not finished, with nobody at work in its folder: what a killed training left half done is put right.

    Returns:
        The checkpoint, or None for a training from the beginning; and why the checkpoints that are there are of no use,
        empty where there are none or the training goes on.
    """
    checkpoints = RunFolder(run.folder).checkpoints
    if not checkpoints.is_dir() or not any(checkpoints.iterdir()):
        return None, ""
    if not run.config.is_file():
        return None, "there is no run.yaml, which would tell what they are of"
    changes = run.changes()
    if changes:
        what = "; ".join(change for kind in changes.values() for change in kind)
        return None, f"they are of other {' and '.join(changes)}: {what}"
    if run.options.get("overwrite") or not run.options.get("resume", True):
        return None, "the recipe's resume and overwrite say so"
    checkpoint, damaged = newest_state(checkpoints)
    return checkpoint, "" if checkpoint is not None else "; ".join(damaged) or "none is complete"


def clear(run: Run) -> None:
    """Make room for a training from the beginning.

    ``run.yaml`` stays until it is written anew, and the lock is held meanwhile: killed half-way, the folder is still
    known to be a run's.

    Raises:
        FolderBusyError: A training is at work in the folder.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    folder = _hold(run)
    try:
        # first what makes it look finished
        folder.result.unlink(missing_ok=True)
        for path in run.folder.iterdir():
            if path == run.config or path.name == LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    finally:
        folder.let_go()


def refuse_busy(run: Run) -> None:
    """Stop before any work if a training that was started by hand is at work in the folder of a run.

    Raises:
        FolderBusyError: It is.
    """
    if (run.folder / LOCK).is_file():
        _hold(run).let_go()


def _hold(run: Run) -> RunFolder:
    folder = RunFolder(run.folder)
    try:
        folder.hold()
    except ValueError:
        raise FolderBusyError(
            f"another training is at work in {run.folder}; wait for it, or give another --output"
        ) from None
    return folder
