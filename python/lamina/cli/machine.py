"""The facts about a machine that `lamina doctor` reports. Imports neither Keras nor a backend nor wandb."""

from __future__ import annotations

import configparser
import json
import netrc
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lamina.cache import cache_folder
from lamina.errors import InvalidInputError

PACKAGES = (
    *("lamina", "keras", "tensorflow", "tensorflow-cpu", "jax", "torch"),
    *("wandb", "numpy", "ml_dtypes", "h5py", "typer", "rich"),
)
BACKENDS = {"tensorflow": ("tensorflow", "tensorflow-cpu"), "jax": ("jax",), "torch": ("torch",)}
#: None of these is secret.
VARIABLES = ("LAMINA_THREADS", "LAMINA_CPU", "LAMINA_CACHE_DIR", "LAMINA_LINEAGE", "LAMINA_DEBUG")
_WANDB = ("mode", "base_url", "entity", "project", "dir", "cache_dir", "data_dir")
_DEFAULT_URL = "https://api.wandb.ai"


def versions() -> dict[str, str | None]:
    """Package → installed version, or None."""
    return {name: version(name) for name in PACKAGES}


def version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def engine() -> dict[str, Any]:
    """Whether the engine loads, and how many threads and which processor instructions it uses."""
    try:
        from lamina import _core
    except ImportError as error:
        return {"loads": False, "error": str(error), "threads": None, "level": None}
    found: dict[str, Any] = {"loads": True, "error": None}
    for name, ask in (("threads", _core.default_threads), ("level", _core.cpu_level)):
        try:
            found[name] = ask()
        except InvalidInputError as error:  # an invalid variable makes every save fail
            found |= {name: None, "error": str(error)}
    return found


def cpu() -> dict[str, Any]:
    """The processor."""
    text = _read(Path("/proc/cpuinfo"))
    fields = dict(reversed([line.split(":", 1) for line in text.splitlines() if ":" in line]))
    known = {name.strip(): value.strip() for name, value in fields.items()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"machine": platform.machine(), "model": known.get("model name"), "cores": cores}


def memory() -> dict[str, int | None]:
    """Total and available memory in bytes."""
    lines = (line.split() for line in _read(Path("/proc/meminfo")).splitlines())
    sizes = {parts[0]: int(parts[1]) * 1024 for parts in lines if len(parts) > 1 and parts[1].isdigit()}
    return {"total": sizes.get("MemTotal:"), "available": sizes.get("MemAvailable:")}


def devices() -> list[dict[str, Any]]:
    """Name, total and free memory of the NVIDIA GPUs; none where ``nvidia-smi`` does not show any.

    A backend would know more, but it takes memory of a device for itself when it is asked.
    """
    command = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(",", 2) for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [
        {"name": row[0].strip(), "total": _mebibytes(row[1]), "free": _mebibytes(row[2])}
        for row in rows
        if len(row) == 3
    ]


def _mebibytes(text: str) -> int | None:
    """Bytes; None for ``[N/A]``, which devices with unified memory say."""
    return int(text) << 20 if text.strip().isdecimal() else None


def backend() -> dict[str, Any]:
    """The backend that Keras would choose, by Keras's own rules, without importing it."""
    name = os.environ.get("KERAS_BACKEND", "")
    origin = "KERAS_BACKEND"
    if not name:
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        try:
            name, origin = str(json.loads((home / "keras.json").read_text())["backend"]), "keras.json"
        except (OSError, ValueError, KeyError, TypeError):
            name, origin = "tensorflow", "default"
    installed = any(version(package) for package in BACKENDS.get(name, ()))
    return {"name": name, "from": origin, "installed": installed}


def wandb() -> dict[str, Any]:
    """Non-secret settings of wandb, from the environment and its settings files."""
    found: dict[str, str | None] = dict(_wandb_files())
    found |= {name: value for name in _WANDB if (value := os.environ.get(f"WANDB_{name.upper()}"))}
    try:
        parts = urlsplit(found.get("base_url") or _DEFAULT_URL)
        host = parts.hostname or ""
    except ValueError:  # not a URL
        parts, host = urlsplit(""), ""
    found["base_url"] = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # a password may stand before the @
    found["api_key"] = _key_from(host)
    return {name: found.get(name) for name in (*_WANDB, "api_key")}


def disks(folder: str) -> list[dict[str, Any]]:
    """Disk space where lamina writes: the folder, temporary files and the cache."""
    places = [("folder", Path(folder)), ("temporary files", Path(tempfile.gettempdir())), ("cache", cache_folder())]
    return [{"use": use} | _disk(path) for use, path in places]


def _disk(path: Path) -> dict[str, Any]:
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    usage = shutil.disk_usage(there)
    return {
        "path": str(path),
        "file_system": _file_system(there),
        "free": usage.free,
        "total": usage.total,
        "writable": os.access(there, os.W_OK),
    }


def _file_system(path: Path) -> str | None:
    """Type of the file system that holds a path, or None if unknown."""
    best, kind = -1, None
    real = os.path.realpath(path)
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = fields[4].replace("\\040", " ")
        inside = point == "/" or real == point or real.startswith(point + "/")
        if inside and len(point) >= best:
            best, kind = len(point), right.split(" ")[0]
    return kind


def _wandb_files() -> dict[str, str]:
    user = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([user / "settings", Path("wandb", "settings")])
        section = dict(parser["default"]) if parser.has_section("default") else {}
    except (configparser.Error, OSError, UnicodeError):
        return {}
    return {name: value for name, value in section.items() if name in _WANDB}


def _key_from(host: str) -> str | None:
    """Where wandb finds an API key; never the key."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "WANDB_IDENTITY_TOKEN_FILE"
    names = (".netrc", "_netrc") if sys.platform == "win32" else (".netrc",)
    files = [Path(os.environ["NETRC"])] if os.environ.get("NETRC") else [Path.home() / name for name in names]
    for file in files:
        try:
            if netrc.netrc(str(file)).authenticators(host):
                return "netrc"
        except (OSError, netrc.NetrcParseError, UnicodeError):
            continue
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
