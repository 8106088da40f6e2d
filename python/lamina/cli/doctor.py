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
from lamina.cli.command import AsJson, verb
from lamina.cli.output import human, print_fields, print_json, print_table, progress
from lamina.errors import NotFoundError
from lamina.schemes import local_path

_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "lustre", "ceph", "glusterfs", "afs", "virtiofs")
_LITTLE_ROOM = 5 * 10**9
_MEASURED = 64 << 20
_KEYS = (
    "python, platform, versions, engine (loads, error, threads, level), cpu (machine, model, cores), "
    "memory (total, available), backend (name, from, installed), wandb (mode, base_url, entity, project, dir, "
    "cache_dir, data_dir, api_key: where it comes from), variables, disks (use, path, file_system, free, total, "
    "writable), speed (encode, write: bytes per second; null without --measure), advice"
)


@verb("doctor", example="lamina doctor runs/a --measure", keys=_KEYS)
def doctor(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Folder for repositories.", show_default=False)] = ".",
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the engine, and the disk with a 64 MiB temporary file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show versions, processor, backend, W&B settings (no secrets) and free disk space, and report problems."""
    if not local_path(folder, "a directory").is_dir():
        raise NotFoundError(f"{folder} is not a directory")
    found = _found(folder)
    works = found["engine"]["loads"] and not found["engine"]["error"]
    found["speed"] = _speed(folder) if measure and works else None
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
        "backend": machine.backend(),
        "wandb": machine.wandb(),
        "variables": {name: os.environ[name] for name in machine.VARIABLES if name in os.environ},
        "disks": machine.disks(folder),
    }


def advice(found: dict[str, Any]) -> list[str]:
    """One sentence for each problem that would make lamina slow or fail."""
    return [*_of_machine(found), *_of_packages(found), *_of_disks(found["disks"])]


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
