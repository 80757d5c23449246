"""Tar shards: which files a pattern means, and where in them each member lies, so that it can be read in place."""

from __future__ import annotations

import io
import itertools
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from timesformer_plus.data.inventory import inside
from timesformer_plus.data.manifests import Member

# A header with its long name takes kilobytes; what claims more is not read into memory.
MAX_HEADER_BYTES = 1 << 20
MAX_SHARDS = 100_000
_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_META = re.compile(r"__[^/]*__(?:$|/)")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(pattern: Path) -> list[Path]:
    """The shards that a pattern with braces, or a folder, stands for; every one must be there.

    Args:
        pattern: ``{000..009}`` counts, with as many digits as its first number has; ``{a,b}`` lists; several braces
            multiply. A folder stands for its files ending in ``.tar``, sorted.

    Raises:
        ValueError: It is a URL or a pipe, the braces are malformed, or a shard is not there.
    """
    if pattern.is_dir():
        shards = sorted(path for path in pattern.glob("*.tar") if path.is_file())
        if not shards:
            raise ValueError(f"{pattern}: there is no file ending in .tar in this folder")
        return shards
    text = str(pattern)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        raise ValueError(
            f"{text}: shards are read from files only, neither from a pipe nor from a URL; copy them first"
        )
    parts = re.split(r"\{([^{}]*)\}", text)
    if any(mark in part for part in parts[::2] for mark in "{}"):
        raise ValueError(f"{text}: the braces do not match; write them as in train-{{000..009}}.tar")
    choices = [[part] if i % 2 == 0 else _choices(part, text) for i, part in enumerate(parts)]
    shards = [Path("".join(chosen)) for chosen in itertools.islice(itertools.product(*choices), MAX_SHARDS + 1)]
    if len(shards) > MAX_SHARDS:
        raise ValueError(f"{text}: stands for more than {MAX_SHARDS} shards; write the range that there is")
    absent = [shard for shard in shards if not shard.is_file()]
    if absent:
        raise ValueError(f"{text}: {len(absent)} of {len(shards)} shards are not there, first {absent[0]}")
    return shards


def folder_of(pattern: Path) -> Path:
    """The folder that all the shards of a pattern lie in, directly or deeper; a folder itself."""
    if pattern.is_dir():
        return pattern
    return next(folder for folder in pattern.parents if "{" not in str(folder))


def _choices(braces: str, text: str) -> list[str]:
    if match := _RANGE.fullmatch(braces):
        first, last = match.groups()
        if len(first) > 9 or len(last) > 9 or not 0 <= int(last) - int(first) < MAX_SHARDS:
            raise ValueError(f"{text}: {{{braces}}} must count upwards, to at most {MAX_SHARDS} shards")
        return [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    if "," in braces:
        return braces.split(",")
    raise ValueError(f"{text}: {{{braces}}} is neither a range such as {{000..009}} nor a list such as {{a,b}}")


def split_key(name: str) -> tuple[str, str]:
    """Key and suffix (in lower case, with its dot) of a member: its path before and from the first dot of its name.

    The suffix is empty for what belongs to no sample: names without one, hidden files and ``__meta__`` members.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem or _META.match(name):
        return name, ""
    return folder + slash + stem, (dot + suffix).lower()


def index(shard: Path, file: BinaryIO) -> Iterator[Member]:
    """Where the members of an uncompressed tar lie, by its headers; what lies between them is skipped, not read.

    Args:
        shard: Its path, for errors.
        file: The same, open.

    Yields:
        Regular files that belong to a sample, in order.

    Raises:
        ValueError: It is compressed, cut off, damaged or not a tar; a member is a link, a device, a pipe or sparse, or
            its name leaves the shard.
    """
    size = os.fstat(file.fileno()).st_size
    begin = file.read(6)
    for magic, name in _COMPRESSED.items():
        if begin.startswith(magic):
            raise ValueError(f"{shard}: is compressed with {name}, so no member can be read in place; decompress it")
    headers = _Headers(file, shard)
    end = 0
    try:
        headers.seek(0)
        with tarfile.TarFile(fileobj=cast(BinaryIO, headers), mode="r") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header for good
                # a negative size would send it back, to read the same header for ever
                if member.size < 0 or tar.offset <= end:
                    raise ValueError(
                        f"{shard}: member {member.name!r} claims {member.size} bytes; write the shard again"
                    )
                end = tar.offset
                _check(shard, member, size)
                name = inside(member.name, shard, f"{shard}, member")
                if member.isreg() and split_key(name)[1]:
                    yield Member(name, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: cut off, or not a tar file ({error}); copy it again") from error
    # tarfile takes a damaged or lacking header for the end of the archive; a whole one ends with blocks of zeros
    file.seek(end)
    tail = file.read(64 * _BLOCK)
    if len(tail) < _BLOCK or any(tail[:_BLOCK]):
        raise ValueError(f"{shard}: cut off or damaged after byte {end} of {size}; copy it again")
    if any(tail):
        raise ValueError(f"{shard}: goes on after its end, as tars joined by cat do; list them one by one instead")


def _check(shard: Path, member: tarfile.TarInfo, size: int) -> None:
    if not (member.isreg() or member.isdir()):
        kind = "link" if member.issym() or member.islnk() else "device or pipe"
        raise ValueError(f"{shard}: member {member.name!r} is a {kind}; a shard may hold regular files only")
    if member.issparse():
        raise ValueError(f"{shard}: member {member.name!r} is sparse, its bytes do not lie in a row; write it plainly")
    if member.isreg() and member.offset_data + member.size > size:
        raise ValueError(f"{shard}: cut off in member {member.name!r}; copy it again")


class _Headers(io.RawIOBase):
    """A file as tarfile may read it: small pieces only, however large a forged header says that it is."""

    def __init__(self, file: BinaryIO, shard: Path) -> None:
        self._file = file
        self._shard = shard

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"{self._shard}: a header claims {size} bytes; write the shard again")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
