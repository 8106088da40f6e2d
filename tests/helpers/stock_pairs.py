"""Runs lamina's callback and Keras's side by side, and compares their files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import keras

from lamina.keras import ModelCheckpoint


def assert_same_file(ours: Path, keras_file: Path) -> None:
    if not ours.name.endswith(".keras"):
        assert ours.read_bytes() == keras_file.read_bytes()
        return
    with zipfile.ZipFile(ours) as a, zipfile.ZipFile(keras_file) as b:
        assert a.testzip() is None
        assert [m.filename for m in a.infolist()][:3] == [m.filename for m in b.infolist()][:3]
        assert {m.filename for m in a.infolist()} == {m.filename for m in b.infolist()}
        for mine in a.infolist():
            theirs = b.getinfo(mine.filename)
            for field in ("external_attr", "flag_bits", "compress_type", "extract_version", "extra"):
                assert getattr(mine, field) == getattr(theirs, field), (mine.filename, field)
            if mine.filename != "metadata.json":  # it has the time
                assert a.read(mine) == b.read(theirs), mine.filename
    assert ours.stat().st_size == keras_file.stat().st_size


def pair(folder: Path, suffix: str, **arguments: Any) -> tuple[ModelCheckpoint, Any]:
    arguments = {"save_freq": 3, "save_weights_only": suffix == ".weights.h5"} | arguments
    stock = {k: v for k, v in arguments.items() if k not in ("repository", "threads", "on_commit", "device_copy")}
    name = "{epoch}-{batch}" if arguments["save_freq"] != "epoch" else "{epoch}"
    ours = ModelCheckpoint(folder / "ours" / (name + suffix), **arguments)
    return ours, keras.callbacks.ModelCheckpoint(folder / "stock" / (name + suffix), **stock)


def assert_same_folders(folder: Path, at_least: int) -> None:
    names = sorted(path.name for path in (folder / "stock").iterdir())
    assert sorted(path.name for path in (folder / "ours").iterdir()) == names
    assert len(names) >= at_least
    for name in names:
        assert_same_file(folder / "ours" / name, folder / "stock" / name)
