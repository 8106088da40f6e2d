"""`Writers`: several processes send one version together, each a part of the packs.

wandb merges what they upsert into one shared draft, and commits it when one of them finishes it. wandb tells no process
about the others; the processes exchange messages through `gather`.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.errors import ArtifactError, InvalidInputError
from lamina.wandb.manifest import FileEntry

#: Whether this process sends or has sent; its base version plus 1, or 0; a digest of what it sends; random bytes.
_MESSAGE = struct.Struct("<?I32s16s")


@dataclass(frozen=True)
class Writers:
    """The processes that send one version together; each passes its own rank.

    Args:
        rank: of this process, from 0.
        count: number of processes.
        gather: takes this process's message and returns the messages of all processes, in the order of their ranks.
            All messages are `bytes` of the same length. It must raise an error if a process does not respond: set a
            time limit on your collective.

    `of_jax` and `of_torch` make one inside a distributed training.

    Raises:
        InvalidInputError: if ``rank`` is not from 0 to ``count - 1``.

    Examples:
        >>> from lamina.wandb import Writers
        >>> alone = Writers(rank=0, count=1, gather=lambda message: [message])
    """

    rank: int
    count: int
    gather: Callable[[bytes], Sequence[bytes]]

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise InvalidInputError(f"rank must be from 0 to count - 1. Received: {self.rank} of {self.count}")

    @classmethod
    def of_jax(cls) -> Writers:
        """The processes of ``jax.distributed``."""
        import jax
        import numpy as np
        from jax.experimental.multihost_utils import process_allgather

        def gather(message: bytes) -> list[bytes]:
            rows = np.asarray(process_allgather(np.frombuffer(message, np.uint8)))
            return [row.tobytes() for row in rows.reshape(jax.process_count(), -1)]

        return cls(jax.process_index(), jax.process_count(), gather)

    @classmethod
    def of_torch(cls, group: Any = None) -> Writers:
        """The processes of ``torch.distributed``; a group of the gloo backend needs no GPU for this."""
        import torch.distributed

        distributed = torch.distributed

        def gather(message: bytes) -> list[bytes]:
            messages: list[Any] = [b""] * distributed.get_world_size(group)
            distributed.all_gather_object(messages, message, group)
            return messages

        return cls(distributed.get_rank(group), distributed.get_world_size(group), gather)

    def agree(self, identity: str | None, base: int | None = None) -> Plan:
        """Agree on who sends. ``identity`` is None in a process without a run; ``base`` is the newest version.

        Raises:
            InvalidInputError: in every process, if none has a run, or if they do not send the same version.
            ArtifactError: if a process does not respond.
        """
        wanted = hashlib.sha256((identity or "").encode()).digest()
        number = 0 if base is None else base + 1
        said = self._gathered(_MESSAGE.pack(identity is not None, number, wanted, os.urandom(16)))
        senders = [rank for rank, (sends, *_) in enumerate(said) if sends]
        if not senders:
            raise InvalidInputError("no process has an online W&B run; call wandb.init() in at least one of them")
        _, number, wanted, unique = said[senders[0]]
        if other := [rank for rank in senders if said[rank][2] != wanted]:
            raise InvalidInputError(
                f"processes {senders[0]} and {other[0]} send different versions: pass the same snapshot of the same "
                "repository, the same name=, and runs of one project"
            )
        # Unique, so that files of an earlier, unfinished attempt are not mixed in.
        name = hashlib.sha256(wanted + unique).hexdigest()[:32]
        return Plan(f"lamina-{name}", tuple(senders), self.rank, number - 1 if number else None)

    def all_did(self, plan: Plan, done: bool) -> list[int]:
        """Tell the others whether this process succeeded; returns the ranks of the senders that failed.

        Raises:
            ArtifactError: if a process does not respond.
        """
        said = self._gathered(_MESSAGE.pack(done, 0, b"", b""))
        return [rank for rank in plan.senders if not said[rank][0]]

    def _gathered(self, message: bytes) -> list[tuple[Any, ...]]:
        try:
            messages = list(self.gather(message))
        except Exception as error:
            raise ArtifactError(f"not all processes responded: {str(error) or repr(error)}") from error
        if len(messages) != self.count or any(len(each) != _MESSAGE.size for each in messages):
            raise InvalidInputError(
                f"gather must return {self.count} messages of {_MESSAGE.size} bytes each. "
                f"Received: {len(messages)} of {sorted({len(each) for each in messages})} bytes"
            )
        return [_MESSAGE.unpack(each) for each in messages]


@dataclass(frozen=True)
class Plan:
    """What the processes have agreed on."""

    distributed_id: str
    senders: tuple[int, ...]  # ranks
    rank: int  # of this process
    base: int | None  # committed version whose files are not sent again

    @property
    def sends(self) -> bool:
        return self.rank in self.senders

    @property
    def finishes(self) -> bool:
        return self.rank == self.senders[0]

    def share(self, entries: Iterable[FileEntry]) -> list[FileEntry]:
        """The packs that this process sends. The largest comes first, each goes to the process with the fewest bytes;
        every process computes the same shares.
        """
        loads = dict.fromkeys(self.senders, 0)
        mine = []
        fresh = [entry for entry in entries if is_pack(entry) and entry.birth is None]
        for entry in sorted(fresh, key=lambda entry: (-entry.size, entry.path)):
            sender = min(self.senders, key=lambda rank: (loads[rank], rank))
            loads[sender] += entry.size
            if sender == self.rank:
                mine.append(entry)
        return mine

    def rest(self, entries: Iterable[FileEntry]) -> list[FileEntry]:
        """What the finishing process adds: all files but packs, and the packs that the server already has."""
        return [entry for entry in entries if not is_pack(entry) or entry.birth is not None]


def is_pack(entry: FileEntry) -> bool:
    return entry.path.startswith("packs/")
