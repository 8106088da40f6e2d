"""`lamina doctor`: what is installed, and problems that would make lamina slow or fail."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lamina.cli import machine
from lamina.cli.command import AsJson, size_of, verb
from lamina.cli.output import human, print_fields, print_json, print_table, progress
from lamina.errors import NotFoundError
from lamina.keras.capture.devices.headroom import MARGIN
from lamina.schemes import local_path

_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "lustre", "ceph", "glusterfs", "afs", "virtiofs")
_LITTLE_ROOM = 5 * 10**9
_MEASURED = 64 << 20
_KEYS = (
    "python, platform, versions, engine (loads, error, threads, level), cpu (machine, model, cores), "
    "memory (total, available), backend (name, from, installed), wandb (mode, base_url, entity, project, dir, "
    "cache_dir, data_dir, api_key: where it comes from), variables, disks (use, path, file_system, free, total, "
    "writable), speed (encode, write: bytes per second; null without --measure), devices (name, total, free), "
    "save (bytes, pinned: whether the host has the memory, devices: for each, copies: whether it is copied there "
    "first, and missing; null without --model-size), advice"
)


@verb("doctor", example="lamina doctor runs/a --measure", keys=_KEYS)
def doctor(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Folder for repositories.", show_default=False)] = ".",
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the engine, and the disk with a 64 MiB temporary file.")
    ] = False,
    model_size: Annotated[
        str | None,
        typer.Option("--model-size", metavar="SIZE", help="Show what a save of so many bytes would do, such as 10GB."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show versions, processor, GPUs, backend, W&B settings (no secrets) and free disk space, and report problems."""
    nbytes = None if model_size is None else size_of("--model-size", model_size)
    if not local_path(folder, "a directory").is_dir():
        raise NotFoundError(f"{folder} is not a directory")
    found = _found(folder)
    works = found["engine"]["loads"] and not found["engine"]["error"]
    found["speed"] = _speed(folder) if measure and works else None
    found["save"] = None if nbytes is None else _save(found, nbytes)
    found["advice"] = advice(found)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _found(folder: str) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": machine.versions(),
        "engine": machine.engine(),
        "cpu": machine.cpu(),
        "memory": machine.memory(),
        "devices": machine.devices(),
        "backend": machine.backend(),
        "wandb": machine.wandb(),
        "variables": {name: os.environ[name] for name in machine.VARIABLES if name in os.environ},
        "disks": machine.disks(folder),
    }


def _save(found: dict[str, Any], nbytes: int) -> dict[str, Any]:
    """What a save of a model with its optimizer of this size would do, with what is free now."""
    missing = [_missing(device["free"], nbytes) for device in found["devices"]]
    available = found["memory"]["available"]
    return {
        "bytes": nbytes,
        "pinned": None if available is None else available >= nbytes,
        "devices": [{"copies": None if lack is None else not lack, "missing": lack} for lack in missing],
    }


def _missing(free: int | None, nbytes: int) -> int | None:
    return None if free is None else max(nbytes + MARGIN - free, 0)


def advice(found: dict[str, Any]) -> list[str]:
    """One sentence for each problem that would make lamina slow or fail."""
    return [*_of_machine(found), *_of_save(found), *_of_packages(found), *_of_disks(found["disks"])]


def _of_machine(found: dict[str, Any]) -> list[str]:
    engine, said = found["engine"], []
    if not engine["loads"]:
        said.append(f"the engine does not load; nothing will work: {engine['error']}")
    elif engine["error"]:
        said.append(f"every save will fail: {engine['error']}")
    if engine["level"] == "portable":
        said.append("the engine uses no AVX2: hashing and compression are several times slower")
    if engine["threads"] == 1:
        said.append("the engine has one thread: hashing and compression compete with training")
    return said


def _of_save(found: dict[str, Any]) -> list[str]:
    save = found["save"]
    if save is None:
        return []
    said = [
        f"{device['name']} lacks {human(one['missing'])} for a copy of {human(save['bytes'])}: each save would block "
        "training while the weights go to the host"
        for device, one in zip(found["devices"], save["devices"], strict=True)
        if one["missing"]
    ]
    if save["pinned"] is False:
        free = human(found["memory"]["available"])
        said.append(f"a save of {human(save['bytes'])} needs as much memory of the host, and {free} are available")
    return said


def _of_packages(found: dict[str, Any]) -> list[str]:
    versions, chosen, settings = found["versions"], found["backend"], found["wandb"]
    said = []
    if not chosen["installed"]:
        said.append(f"Keras would use {chosen['name']} ({chosen['from']}), which is not installed")
    if _older(versions["keras"], (3, 10)):
        said.append(f"keras {versions['keras']} is too old; lamina needs 3.10")
    if versions["wandb"] is None:
        said.append("wandb is not installed: only repositories and files can be used")
    elif _older(versions["wandb"], (0, 30)):
        said.append(f"wandb {versions['wandb']} is too old; lamina needs 0.30")
    elif settings["api_key"] is None and settings["mode"] not in ("offline", "disabled"):
        said.append("wandb has no API key for its server: wandb login, or WANDB_MODE=offline")
    return said


def _of_disks(disks: list[dict[str, Any]]) -> list[str]:
    said = []
    for disk in disks:
        where = f"{disk['path']} ({disk['use']})"
        kind = str(disk["file_system"])
        if not disk["writable"]:
            said.append(f"{where} is not writable")
        if disk["free"] < _LITTLE_ROOM:
            said.append(f"{where} has only {human(disk['free'])} left")
        if disk["use"] == "folder" and kind.startswith(_REMOTE):
            said.append(f"{where} is on {kind}: saves are slower, and prune refuses to delete without file locks")
        if disk["use"] == "folder" and kind in ("tmpfs", "ramfs"):
            said.append(f"{where} is in memory: checkpoints use memory and are lost at a restart")
    return said


def _older(version: str | None, least: tuple[int, int]) -> bool:
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in (version or "").split(".")[:2])
    return version is not None and numbers < least


def _speed(folder: str) -> dict[str, float]:
    import numpy as np

    from lamina import _core
    from lamina.repository.dtypes import as_bytes

    chunk = as_bytes(np.random.default_rng(0).normal(0, 0.05, 1 << 18).astype("<f4"))
    data = np.tile(chunk, _MEASURED // chunk.size)
    with progress("measuring"), tempfile.TemporaryDirectory(prefix=".lamina-doctor-", dir=folder) as temporary:
        start = time.perf_counter()
        for _ in range(_MEASURED // chunk.size):
            _core.encode(chunk, "<f4", "planes")
        encoded = time.perf_counter()
        _core.write_file(Path(temporary, "data"), data.size, [(0, data)], data[:0])
        written = time.perf_counter()
    return {"encode": data.size / (encoded - start), "write": data.size / (written - encoded)}


def _print(found: dict[str, Any]) -> None:
    cpu, memory, engine, backend = (found[name] for name in ("cpu", "memory", "engine", "backend"))
    speed = found["speed"] or {}
    installed = [f"{name} {version}" for name, version in found["versions"].items() if version]
    print_fields(
        [
            ("python", f"{found['python']} on {found['platform']}"),
            ("packages", ", ".join(installed)),
            ("engine", f"{engine['threads']} threads, {engine['level']}" if engine["loads"] else "does not load"),
            ("processor", ", ".join(str(cpu[name]) for name in ("model", "machine") if cpu[name])),
            ("cores", cpu["cores"]),
            ("memory", f"{human(memory['available'])} free of {human(memory['total'])}"),
            *(("device", _device(found, i)) for i in range(len(found["devices"]))),
            ("backend", f"{backend['name']} (from {backend['from']})"),
            *((f"wandb {name}", value) for name, value in found["wandb"].items() if name != "api_key"),
            ("wandb API key", f"from {found['wandb']['api_key']}" if found["wandb"]["api_key"] else "none"),
            *found["variables"].items(),
            ("encode", f"{human(speed['encode'])}/s on one thread" if speed else None),
            ("write", f"{human(speed['write'])}/s with fsync" if speed else None),
        ]
    )
    print()
    columns = ["disk", "path", "file system", ">free", ">total"]
    rows = [(d["use"], d["path"], d["file_system"], human(d["free"]), human(d["total"])) for d in found["disks"]]
    print_table(columns, rows)
    print()
    for line in found["advice"]:
        print_fields([("!", line)])
    if not found["advice"]:
        print("no problems found")


def _device(found: dict[str, Any], i: int) -> str:
    device = found["devices"][i]
    text = f"{device['name']}, {human(device['free'])} free of {human(device['total'])}"
    if found["save"] is None:
        return text
    nbytes, copies = human(found["save"]["bytes"]), found["save"]["devices"][i]["copies"]
    if copies is None:
        return f"{text}; whether a save of {nbytes} has room is not known"
    if copies:
        return f"{text}; a save of {nbytes} is copied there first, if training leaves that much at its peak"
    return f"{text}; a save of {nbytes} goes straight to pinned memory of the host, and training waits"
