"""Folders that are whole or not there, whenever the process that writes them is killed.

A folder is filled under another name beside its place, ``.NAME.unfinished-TOKEN``. When everything is in it, its files
are forced to the disk, manifest.json is written with size and sha256 of each, and it is renamed. A folder cannot be
renamed onto a full one, so an older one steps aside first, to ``.NAME.replaced-TOKEN``, and is removed afterwards. A
process that is killed leaves at most these two names behind; ``recover`` finishes what it had begun, or takes it back.

manifest.json is ``{"format": 1, "files": {NAME: {"sha256": HEX, "size": BYTES}}}`` in one canonical form (sorted keys,
indent of 2), so that no bit of the manifest itself can change unseen either.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError

MANIFEST_FILE = "manifest.json"
FORMAT = 1
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(unfinished|replaced)-(?P<token>[a-z0-9_]{8})")
_CHUNK = 1 << 20  # bytes that are hashed at a time


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill a folder which takes the place of ``target`` if the block succeeds, and vanishes if it does not.

    Files and folders become readable for everybody (0644 and 0755), whatever the umask, folders above ``target`` that
    had to be made included. One process at a time may write a target.

    Args:
        target: Where the folder is to be. What is there already is replaced; until then it is untouched.

    Yields:
        The folder to write to, empty, beside ``target``.

    Raises:
        ValueError: ``target`` is a file.
        OSError: The folder cannot be written, because of a full disk, say.
    """
    target = target.resolve()  # a link to a folder on another disk stays a link
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file and will not be replaced by a folder; move it away")
    staged: Path | None = None
    try:
        _make_parents(target.parent)
        recover(target)
        staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.unfinished-", dir=target.parent))
        yield staged
        seal(staged)
        _put(staged, target)
    except (OSError, SafetensorError) as error:  # the latter is how safetensors reports that it cannot write
        raise OSError(
            f"{target} cannot be written ({_reason(error)}); what was there before is untouched. Make room on its disk "
            "or choose another output"
        ) from error
    finally:
        if staged is not None:
            _settle(target, staged)


def seal(folder: Path) -> None:
    """Make a filled folder readable for everybody, write its manifest, and force all of it to the disk.

    ``new_folder`` does so.
    """
    folders = [folder, *(path for path in sorted(folder.rglob("*")) if path.is_dir())]
    files = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    for file in files.values():
        file.chmod(0o644)  # safetensors writes 0600
        _force(file)
    entries = {name: {"sha256": _sha256(file), "size": file.stat().st_size} for name, file in files.items()}
    manifest = folder / MANIFEST_FILE
    manifest.write_text(_canonical({"format": FORMAT, "files": entries}), encoding="utf-8")
    manifest.chmod(0o644)
    _force(manifest)
    for path in folders:
        path.chmod(0o755)  # mkdtemp makes 0700
        _force(path)


def damage(folder: Path) -> str | None:
    """Hold a folder against its manifest.

    Files that the manifest does not list are nobody's business.

    Returns:
        ``None`` if it is whole; else one line that names the folder, the file and what is wrong with it.
    """
    manifest = folder / MANIFEST_FILE
    if not folder.is_dir():
        return f"{folder} is not a folder"
    if not manifest.is_file():
        return f"{folder}: {MANIFEST_FILE} is missing"
    try:
        text = manifest.read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError) as error:
        return f"{folder}: {MANIFEST_FILE} cannot be read ({error})"
    entries = _entries(content)
    if entries is None or text != _canonical(content):
        return f"{folder}: {MANIFEST_FILE} is damaged, or of another format than {FORMAT}"
    for name, entry in entries.items():
        file = folder / name
        try:
            if not file.is_file():
                return f"{folder}: {name} is missing"
            size = file.stat().st_size
            if size != entry["size"]:
                return f"{folder}: {name} has {size} bytes instead of {entry['size']}"
            if _sha256(file) != entry["sha256"]:
                return f"{folder}: {name} has another content than was written (sha256)"
        except OSError as error:
            return f"{folder}: {name} cannot be read ({error.strerror})"
    return None


def recover(target: Path) -> None:
    """Finish or take back what a killed process had begun with ``target``, and remove what it left.

    If the process was killed between the two renames, the new folder takes its place if it is whole, else the old one
    comes back. Only for when nobody else is writing ``target``: at the start of a run, in one process.
    """
    target = target.resolve()
    for name, token in _leftovers(target.parent):
        if name == target.name:
            _settle(target, target.with_name(f".{name}.unfinished-{token}"))


def unfinished(parent: Path) -> list[Path]:
    """Targets in a folder with which a killed process has left something to ``recover``."""
    return sorted({parent / name for name, _ in _leftovers(parent)})


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _put(staged: Path, target: Path) -> None:
    old = _old(staged)
    if target.exists():
        target.rename(old)
    # a process that is killed here leaves no target: recover() knows what to do
    try:
        staged.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    _force(target.parent)


def _settle(target: Path, staged: Path) -> None:
    """Bring a target and the two names beside it in order, wherever the writing ended."""
    old = _old(staged)
    if not target.exists() and old.exists():
        source = staged if staged.exists() and damage(staged) is None else old
        source.rename(target)
        _force(target.parent)
    for path in (staged, old):
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)


def _old(staged: Path) -> Path:
    head, _, token = staged.name.rpartition(".unfinished-")
    return staged.with_name(f"{head}.replaced-{token}")


def _leftovers(parent: Path) -> list[tuple[str, str]]:
    """Names of targets, and the tokens under which something of them is left."""
    names = sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []
    return [(match["name"], match["token"]) for name in names if (match := _LEFTOVER.fullmatch(name))]


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST_FILE]


def _entries(content: Any) -> dict[str, dict[str, Any]] | None:
    """The files of a manifest, if it has the form that manifests have."""
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("files"), dict):
        return None
    for name, entry in content["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not isinstance(entry, dict):
            return None
        if not isinstance(entry.get("size"), int) or not isinstance(entry.get("sha256"), str):
            return None
    entries: dict[str, dict[str, Any]] = content["files"]
    return entries


def _canonical(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _make_parents(folder: Path) -> None:
    if not folder.is_dir():
        _make_parents(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def _force(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # there, folders cannot be opened and need not be
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
