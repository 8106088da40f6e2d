"""A description of the machine that was measured."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from benches.corpora import size_text

PACKAGES = ("lamina", "numpy", "h5py", "keras", "tensorflow-cpu", "jax", "torch", "wandb", "orbax-checkpoint")
PEERS = ("blake3", "zstandard", "zipnn", "blosc2", "pcodec", "safetensors", "hf-xet")


def describe(folder: Path) -> dict[str, str]:
    """Processor, cores, memory, disk, versions, and how busy it is now."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": _memory(),
        "disk": _file_system(folder),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {found}" for name in PACKAGES + PEERS if (found := _version(name))),
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown",
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _field(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _memory() -> str:
    kilobytes = _field("/proc/meminfo", "MemTotal").split(" ")[0]
    return size_text(int(kilobytes) * 1024) if kilobytes else "unknown"


def _file_system(folder: Path) -> str:
    """The file system of a folder. On tmpfs an fsync costs nothing, so times of saves mean nothing."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    inside = [m for m in mounts if folder.resolve().is_relative_to(m[1])]
    return max(inside, key=lambda m: len(m[1]), default=["", "", "unknown"])[2]
