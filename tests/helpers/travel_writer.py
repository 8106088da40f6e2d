"""Writes artifacts and repositories from docs/format.md alone, without the engine.

``restore`` is the travelling reader as a module, loaded by its path as users of an artifact do.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import zstandard

from places import ROOT

SCRIPT = ROOT / "python" / "lamina" / "wandb" / "travel" / "restore.py"


def _load() -> ModuleType:
    # By its path, like users of an artifact: it must not need the lamina package.
    spec = importlib.util.spec_from_file_location("travelling_restore", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


restore = _load()
CONTENT, NODE, STRUCTURE = range(3)


def blake3(data: bytes) -> bytes:
    return restore.NumpyBlake3(data).digest()


def zstd(data: bytes, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_content_size=sized).compress(data)


def planes(data: bytes, width: int, turn: bool) -> bytes:
    words = np.frombuffer(data, f"<u{width}")
    if turn:
        words = (words << 1) | (words >> (8 * width - 1))
    header, body = bytes([width, turn]), b""
    for plane in words.astype(f"<u{width}").view(np.uint8).reshape(-1, width).T:
        plain = plane.tobytes()
        if len(set(plain)) == 1:
            mode, stored = 2, plain[:1]
        elif len(packed := zstd(plain)) < len(plain):
            mode, stored = 1, packed
        else:
            mode, stored = 0, plain
        header, body = header + struct.pack("<BI", mode, len(stored)), body + stored
    return header + body


@dataclass
class Chunk:
    data: bytes
    codec: int = 0
    encoded: bytes = b""
    kind: int = CONTENT
    raw: int | None = None
    name: bytes = b""

    def __post_init__(self) -> None:
        self.encoded = self.encoded or self.data
        self.name = self.name or blake3(self.data)

    @property
    def pair(self) -> list[Any]:
        return [self.name.hex(), len(self.data)]

    @property
    def entry(self) -> bytes:
        raw = len(self.data) if self.raw is None else self.raw
        return self.name + struct.pack("<IIBBH", len(self.encoded), raw, self.codec, self.kind, 0)


def make_pack(chunks: list[Chunk], *, version: int = 1, required: int = 0, base: bytes = b"", salt: int = 0) -> bytes:
    footer = b"".join(chunk.entry for chunk in chunks) + base
    trailer = struct.pack("<IIQQQQ", version, len(chunks), len(footer), required, 0, salt)
    trailer += blake3(b"LAMINAPK" + footer + trailer) + b"LAMINAFT"
    return b"LAMINAPK" + b"".join(chunk.encoded for chunk in chunks) + footer + trailer


def make_placement(packs: list[bytes], *, version: int = 1) -> bytes:
    data = b"LAMINAPL" + struct.pack("<II", version, len(packs))
    for name, pack in sorted((blake3(pack), pack) for pack in packs):
        tail = struct.unpack_from("<Q", pack, len(pack) - 72)[0] + 80
        data += name + struct.pack("<QQ", len(pack), tail) + pack[-tail:]
    return data + blake3(data)


def make_envelope(kind: str, body: dict[str, Any], *, version: int = 1) -> bytes:
    text = json.dumps({"required": [], "optional": [], **body}, separators=(",", ":"), ensure_ascii=False)
    head, tail = f'{{"lamina":"{kind}","version":{version},"blake3":"', f'",\n"body":{text}\n}}\n'
    return (head + blake3((head + tail).encode()).hex() + tail).encode()


@dataclass
class Sample:
    """One snapshot: its expected content, and the chunks that hold it."""

    files: dict[str, bytes]
    tensors: dict[str, np.ndarray]  # of files; those of the training state begin with ":"
    content: list[Chunk]
    structure: dict[str, Any]
    depth: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    def body_and_chunks(self) -> tuple[dict[str, Any], list[Chunk]]:
        text = json.dumps(self.structure).encode()
        structure = [Chunk(part, kind=STRUCTURE) for part in (text[:100], text[100:]) if part]
        last = structure[-1].data
        if len(packed := zstd(last)) < len(last):
            structure[-1] = Chunk(last, 1, packed, STRUCTURE)
        level, chunks = list(self.content), [*self.content, *structure]
        for _ in range(self.depth):
            listed = [chunk.name + struct.pack("<I", len(chunk.data)) for chunk in level]
            level = [Chunk(b"".join(listed[at : at + 2]), kind=NODE) for at in range(0, len(listed), 2)]
            chunks += level
        state = {
            "length": sum(len(chunk.data) for chunk in self.content),
            "structure": [chunk.pair for chunk in structure],
            "depth": self.depth,
            "root": [chunk.pair for chunk in level],
        }
        fields = {"series": "mnist", "kind": "model", "epoch": 3, "created_at": "2026-11-21T01:45:30.123Z"}
        return {**fields, **self.fields, "state": {**state, **self.state}}, chunks

    def write_artifact(self, folder: Path, packs: int = 1) -> Path:
        body, chunks = self.body_and_chunks()
        made = [make_pack(chunks[first::packs]) for first in range(packs)]
        (folder / "packs").mkdir(parents=True)
        for pack in made:
            (folder / "packs" / f"{blake3(pack).hex()}.pack").write_bytes(pack)
        (folder / "lamina.json").write_bytes(make_envelope("snapshot", body))
        (folder / "lamina.placement").write_bytes(make_placement(made))
        return folder

    def write_repository(self, folder: Path, number: int = 1) -> Path:
        body, chunks = self.body_and_chunks()
        for name in ("packs", "snapshots"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_bytes(make_envelope("config", {"id": "0" * 32}))
        pack = make_pack(chunks)
        (folder / "packs" / f"{blake3(pack).hex()}.pack").write_bytes(pack)
        (folder / "snapshots" / f"{number:010}.json").write_bytes(make_envelope("snapshot", body))
        return folder


def sample(*, seed: int = 0, small: bool = False, depth: int = 0) -> Sample:
    """Three files with interleaved tensors, every codec and plane mode, an empty file and an empty tensor."""
    random = np.random.default_rng(seed)
    kernel = (random.uniform(1, 2, (8, 8)) if small else random.normal(size=(8, 50))).astype("<f4")
    half = (kernel.view("<u4") >> 16).astype("<u2").ravel()
    half = half[:4].repeat(16) if small else half
    steps = np.arange(16 if small else 4000, dtype=">i8")
    header, text = random.bytes(30), b'{"class": "Dense"}' * 3
    content = [
        Chunk(kernel.tobytes(), 2, planes(kernel.tobytes(), 4, True)),
        Chunk(half.tobytes(), 2, planes(half.tobytes(), 2, True)),
        Chunk(header),
        Chunk(text, 1, zstd(text, sized=False)),
        Chunk(steps.tobytes(), 2, planes(steps.tobytes(), 8, False)),
    ]
    starts = [0, *itertools.accumulate(len(chunk.data) for chunk in content)]
    weights = [header[:10], half.tobytes(), header[10:25], kernel.tobytes(), header[25:]]
    extents = [[starts[2], 10], [starts[1], half.nbytes], [starts[2] + 10, 15]]
    extents += [[0, kernel.nbytes], [starts[2] + 25, 5]]
    structure = {
        "files": [
            {
                "path": "model.weights.h5",
                "size": sum(map(len, weights)),
                "tensors": [
                    ["dense/0", "<f4", list(kernel.shape), "weights", 0],
                    ["dense/1", "bfloat16", [half.size], "optimizer", starts[1]],
                    ["dense/2", "|b1", [3, 0], "counters", 0],
                ],
                "extents": extents,
            },
            {
                "path": "assets/ü/a.json",
                "size": len(text),
                "tensors": [],
                "extents": [[starts[3], len(text)]],
            },
            {"path": "empty", "size": 0, "tensors": [], "extents": []},
        ],
        "training": [["step", ">i8", list(steps.shape), "training", starts[4]]],
    }
    files = {"model.weights.h5": b"".join(weights), "assets/ü/a.json": text, "empty": b""}
    tensors = {"dense/0": kernel, "dense/1": half, "dense/2": np.zeros((3, 0), bool), ":step": steps}
    return Sample(files, tensors, content, structure, depth)


def self_repeating() -> Sample:
    """A sample whose nodes each name the node below a thousand times."""
    model = sample()
    level = Chunk((model.content[2].name + struct.pack("<I", 30)) * 1000, kind=NODE)
    nodes = [level]
    for _ in range(3):
        level = Chunk((level.name + struct.pack("<I", len(level.data))) * 1000, kind=NODE)
        nodes.append(level)
    model.content += nodes
    model.state.update(depth=4, root=[level.pair])
    return model


def hollow_structure(distinct: int) -> Sample:
    """A sample with a structure of 80 MiB in a few KB: so many chunks, each named until there are 20."""
    entry = b'["","|u1",[0],"weights",0],'
    body = entry * ((4 << 20) // len(entry) - 1)
    parts = [b" " * number + body for number in range(distinct)]
    middle = [Chunk(part, 1, zstd(part)) for part in parts] * (20 // distinct)
    chunks = [Chunk(b'{"files":[],"training":['), *middle, Chunk(entry[:-1] + b"]}")]
    model = sample()
    model.content += list({chunk.name: chunk for chunk in chunks}.values())
    model.state.update(structure=[chunk.pair for chunk in chunks])
    return model


def restored(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return dict(sorted(found.items()))
