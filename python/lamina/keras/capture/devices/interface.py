"""What `lamina.keras.capture` asks of the devices of a backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lamina.keras.capture.arena import Bytes
from lamina.keras.capture.devices.headroom import Memory

#: So much is on its way to the host at a time: enough to keep the bus busy, and the next step finds it free soon.
IN_FLIGHT = 128 << 20
PINNING_REFUSED = "the system gives no pinned memory, so weights come from the device more slowly"


class DeviceOutOfMemoryError(Exception):
    """A device has no memory for a copy. The tensors are as they were."""


@dataclass(frozen=True)
class OnDevice:
    """A tensor in the memory of one or more accelerators."""

    tensor: Any
    nbytes: int
    shares: Mapping[Any, int]  # bytes on each device


@dataclass(frozen=True)
class HostCopy:
    """The bytes of tensors in the host's memory; all of them are there."""

    arrays: list[Bytes]
    release: Callable[[], None] = lambda: None


class DeviceCopy(Protocol):
    """A copy on the devices that may still be under way. Later steps do not change it."""

    def fetch(self) -> HostCopy:
        """Bring it to the host, and give the memory of the devices back. It waits, on any thread."""


class Devices(Protocol):
    """The devices of one backend."""

    def memory(self, device: Any) -> Memory | None:
        """The memory of a device; None if the runtime does not say."""

    def copy(self, tensors: Sequence[OnDevice]) -> DeviceCopy:
        """Begin a copy on the devices, and wait for nothing.

        Raises:
            DeviceOutOfMemoryError: if a device has no memory for it.
        """

    def fetch(self, tensors: Sequence[OnDevice]) -> HostCopy:
        """Bring the tensors to the host, with no further memory on the devices."""

    def prepare(self, sizes: Sequence[int]) -> None:
        """Get memory of the host for tensors of these sizes while training goes on."""

    def release(self) -> None:
        """Give memory of the host back."""
