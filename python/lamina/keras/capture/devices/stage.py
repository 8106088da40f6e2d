"""Brings tensors from devices to the host: by way of a copy on the device where there is room for one."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import keras

from lamina.errors import LaminaError
from lamina.keras.capture.arena import Bytes
from lamina.keras.capture.devices.headroom import Headroom, Memory
from lamina.keras.capture.devices.interface import DeviceCopy, DeviceOutOfMemoryError, Devices, HostCopy, OnDevice
from lamina.units import human


class Staged:
    """Tensors that are on the host, or that a copy on the device waits for there."""

    def __init__(self, copy: DeviceCopy | None, host: HostCopy | None = None) -> None:
        self._copy = copy
        self._host = host
        self._failure: LaminaError | None = None

    def arrays(self) -> list[Bytes]:
        """Their bytes; waits until all of them are on the host.

        Raises:
            LaminaError: if a device fails.
        """
        if self._failure is not None:
            raise self._failure
        if self._host is None:
            assert self._copy is not None
            copy, self._copy = self._copy, None
            try:
                self._host = _of_device(copy.fetch)
            except LaminaError as error:
                self._failure = error
                raise
        return self._host.arrays

    def release(self) -> None:
        """Give the memory back, on the device and on the host."""
        self._copy = None
        if self._host is not None:
            self._host.release()
            self._host = None


class DeviceStage:
    """Where the copies of one callback are made; ``choice`` is its ``device_copy``."""

    def __init__(self, choice: str = "auto") -> None:
        self._choice = choice
        self._devices: Devices | None = None
        self._headroom: dict[Any, Headroom] = defaultdict(Headroom)
        self._warned = False

    @property
    def devices(self) -> Devices:
        """Those of the backend."""
        if self._devices is None:
            self._devices = devices_of_backend()
        return self._devices

    def prepare(self, sizes: Sequence[int]) -> None:
        """Get memory of the host for tensors of devices of these sizes, while training goes on."""
        if sizes:
            self.devices.prepare(sizes)

    def take(self, tensors: Sequence[OnDevice]) -> Staged:
        """Capture tensors of devices: later steps do not change what this gives.

        Raises:
            LaminaError: if a device fails.
        """
        if self._choice != "never" and self._may_copy(tensors):
            try:
                return Staged(self._copy(tensors))
            except DeviceOutOfMemoryError as error:
                self._warn_once(f"the device has no memory for a copy of {human(_total(tensors))}: {error}")
                if self._choice == "auto":
                    self._choice = "never"  # what the runtime says of its memory cannot be relied on
        return Staged(None, _of_device(lambda: self.devices.fetch(tensors)))

    def release(self) -> None:
        """Training has ended."""
        if self._devices is not None:
            self._devices.release()

    def _copy(self, tensors: Sequence[OnDevice]) -> DeviceCopy:
        copy: DeviceCopy = _of_device(lambda: self.devices.copy(tensors))
        for device, nbytes in _shares(tensors).items():
            self._headroom[device].add(nbytes)
        return copy

    def _may_copy(self, tensors: Sequence[OnDevice]) -> bool:
        if self._choice == "always":
            return True
        for device, nbytes in _shares(tensors).items():
            memory = self._memory(device)
            if memory is None:
                self._warn_once(f"the runtime does not say how much memory is free on {device}")
                return False
            if missing := self._headroom[device].missing(memory, nbytes):
                self._warn_once(
                    f"a copy on {device} takes {human(nbytes)} beside what training takes at its peak, "
                    f"and {human(missing)} are missing"
                )
                return False
        return True

    def _memory(self, device: Any) -> Memory | None:
        """The memory of a device; a question that fails is no reason to lose a save."""
        with contextlib.suppress(Exception):
            return self.devices.memory(device)
        return None

    def _warn_once(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"each save blocks training while the weights are copied from the device to the host: {reason}. "
                'device_copy="always" copies on the device first all the same, "never" does not and does not warn',
                stacklevel=2,
            )


def devices_of_backend() -> Devices:
    """The devices of Keras's backend."""
    if keras.config.backend() == "jax":
        from lamina.keras.capture.devices.jax_devices import JaxDevices

        return JaxDevices()
    if keras.config.backend() == "torch":
        from lamina.keras.capture.devices.torch_devices import TorchDevices

        return TorchDevices()
    from lamina.keras.capture.devices.tensorflow_devices import TensorflowDevices

    return TensorflowDevices()


def _of_device(call: Callable[[], Any]) -> Any:
    """Call a device; what it raises becomes an error of lamina."""
    try:
        return call()
    except (DeviceOutOfMemoryError, LaminaError):
        raise
    except Exception as error:
        raise LaminaError(
            f"the weights could not be copied from the device, so this save is lost; the training itself was not "
            f"changed. The device says: {error}"
        ) from error


def _shares(tensors: Sequence[OnDevice]) -> Counter[Any]:
    shares: Counter[Any] = Counter()
    for tensor in tensors:
        shares.update(tensor.shares)
    return shares


def _total(tensors: Sequence[OnDevice]) -> int:
    return sum(_shares(tensors).values())
