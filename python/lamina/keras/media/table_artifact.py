"""W&B Tables in artifacts, and tables whose cells refer to those of another artifact."""

import contextlib
from collections.abc import Iterator
from typing import Any


def _private() -> Any:
    from lamina.wandb import private  # needs wandb

    return private


class DataTable:
    """A logged ``wandb.Table`` that can also be read by row: ``table[i][n]``.

    Cells and row numbers (``get_index()``) of it become references in other tables.
    """

    def __init__(self, table: Any, artifact: Any) -> None:
        self._table = table
        self._artifact = artifact

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_table":  # a copy or an unpickled object has no table yet
            raise AttributeError(name)
        return getattr(self._table, name)

    def __getitem__(self, row: int) -> list[Any]:
        cells: list[Any] = self._table.data[row]
        return cells

    def __len__(self) -> int:
        return len(self._table.data)

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self._table.data)


def use_table(run: Any, artifact: Any, table: Any, name: str) -> DataTable:
    """Log the artifact with the table as an input of the run; return the table that others refer to."""
    if run.disabled:
        return DataTable(table, None)
    add_table(artifact, table, name)
    if run.offline:
        _private().log_as_input(run, artifact)
        return DataTable(table, artifact)
    run.use_artifact(artifact)
    artifact.wait()
    return DataTable(artifact.get(name), None)


def add_table(artifact: Any, table: Any, name: str, source: DataTable | None = None) -> None:
    """Add the table to the artifact; cells of ``source`` become references."""
    origin = None if source is None else remember(source)
    with _one_copy_per_name(artifact):
        artifact.add(table, name)
    if origin is not None:
        _refer(artifact, origin)


def remember(source: DataTable) -> Any:
    """Let wandb find the artifact of ``source``: it resolves references only to the last 100 artifacts."""
    artifact = source._artifact
    if artifact is not None:
        _private().remember(artifact)
    return artifact


def _refer(artifact: Any, origin: Any) -> None:
    """Replace files that ``origin`` also has with references to it, and delete their staged copies."""
    for path, entry in list(artifact.manifest.entries.items()):
        original = origin.manifest.entries.get(path)
        if original is None or original.digest != entry.digest or entry.ref is not None:
            continue
        if _private().refer(artifact, path, entry, origin):
            _private().drop_staged(entry.local_path)


@contextlib.contextmanager
def _one_copy_per_name(artifact: Any) -> Iterator[None]:
    """Delete the first of the two copies that ``artifact.add`` stages of each table."""
    add_file = artifact.add_file

    def add_once(*args: Any, **kwargs: Any) -> Any:
        before = {path: entry.local_path for path, entry in artifact.manifest.entries.items()}
        entry = add_file(*args, **kwargs)
        stale = before.get(entry.path)
        if stale and stale != entry.local_path:
            _private().drop_staged(stale)
        return entry

    artifact.add_file = add_once
    try:
        yield
    finally:
        del artifact.add_file
