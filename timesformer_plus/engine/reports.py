"""What the processes of a run say about themselves, where the others can read it also after they are gone.

It is kept by the rendezvous' key-value store: torchrun's agent holds that in a process of its own, which outlives the
ranks, and reaches all machines; a folder would have to be shared by them, and a network disk shows files late. Saying
something costs some 10 microseconds.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

# seconds after which the store counts as unreachable
PATIENCE = 10.0
# and what finding it may take at first: where names are looked up in vain every try costs some seconds
CONNECTING = 60.0
FIRST = "first failure"


class Report(NamedTuple):
    """What a process was doing when it last said so.

    Attributes:
        rank: Number of the process.
        pid: Its number to the system of its machine.
        host: Its machine.
        what: What it is doing.
        place: (update, how many different things it has done in that update): whose is the least is behind.
        waits: Whether it waits for others by intention.
        clips: The clips that it is about.
        idle: Seconds since it began this.
        beat: Grows with every report.
        left: Whether it has come to its end in good order.
    """

    rank: int
    pid: int
    host: str
    what: str
    place: tuple[int, int]
    waits: bool = False
    clips: tuple[str, ...] = ()
    idle: float = 0.0
    beat: int = 0
    left: bool = False

    @property
    def is_local(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    def state(self) -> str:
        """``running``, ``stopped`` or ``ended``; ``unknown`` on another machine."""
        if not self.is_local:
            return "unknown"
        try:
            # the name, in brackets, may hold anything
            letter = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return "ended" if Path("/proc/self").exists() else _asked(self.pid)
        except (ProcessLookupError, IndexError):
            return "ended"
        return {"Z": "ended", "X": "ended", "T": "stopped", "t": "stopped"}.get(letter, "running")


def _asked(pid: int) -> str:
    # no /proc (macOS): there a process that nobody has waited for counts as running
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "ended"
    return "running"


class Reports:
    """The reports of all processes of a run.

    After the store has failed once it is not asked again: whoever held it is gone.

    Args:
        name: Tells the reports of one run from those of another on the same store.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, name: str, *, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._store: Any = None
        if world_size > 1 and {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            # a connection of its own: the process group's may be busy waiting
            store = dist.TCPStore(  # type: ignore[attr-defined]
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=CONNECTING),
            )
            store.set_timeout(timedelta(seconds=PATIENCE))
            self._store = dist.PrefixStore(name, store)  # type: ignore[attr-defined]

    @property
    def reachable(self) -> bool:
        """Whether what is said here can be read by others."""
        return self._store is not None

    def say(self, report: Report) -> None:
        """Replace this process's report."""
        self._ask(lambda store: store.set(f"rank {self.rank}", json.dumps(report._asdict())))

    def of(self, rank: int) -> Report | None:
        """What a process has reported last; ``None`` if it has not yet."""
        key = f"rank {rank}"
        text = self._ask(lambda store: store.get(key)) if self._ask(lambda store: store.check([key])) else None
        if text is None:
            return None
        fields = json.loads(text)
        fields["place"], fields["clips"] = tuple(fields["place"]), tuple(fields["clips"])
        return Report(**fields)

    def all(self) -> list[Report]:
        """The last reports of all that have made one, by rank."""
        found = (self.of(rank) for rank in range(self.world_size))
        return [report for report in found if report is not None]

    def first(self) -> Mapping[str, Any] | None:
        """The first failure: ``rank`` that failed, ``text``; ``None`` if there is none yet."""
        if not self._ask(lambda store: store.check([FIRST])):
            return None
        text = self._ask(lambda store: store.get(FIRST))
        return None if text is None else json.loads(text)

    def claim(self, rank: int, text: str) -> Mapping[str, Any]:
        """Say that ``rank`` has failed first.

        Returns:
            What was the first failure: this one, unless another was said before.
        """
        own = {"rank": rank, "text": text}
        kept = self._ask(lambda store: store.compare_set(FIRST, "", json.dumps(own)))
        return json.loads(kept) if kept else own

    def _ask(self, question: Any) -> Any:
        if self._store is None:
            return None
        try:
            return question(self._store)
        except RuntimeError:  # dist.DistError is one
            self._store = None
            return None
