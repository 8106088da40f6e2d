"""W&B Tables inside artifacts, and tables whose cells refer to another artifact's."""

import contextlib
from collections.abc import Iterator
from typing import Any


def _private() -> Any:
    from lamina.wandb import private  # only where wandb is

    return private


class DataTable:
    """A logged table, to be read by rows: ``table[i][n]``; all of ``wandb.Table`` besides.

    Cells and row numbers (``get_index()``) taken from it are stored elsewhere as references.
    """

    def __init__(self, table: Any, artifact: Any) -> None:
        self._table = table
        self._artifact = artifact

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_table":  # an unpickled or copied object has no table yet
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
    """Log the table in the artifact as an input of the run, and return what later tables refer to."""
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
    """Add the table to the artifact; cells that stand in ``source`` become references."""
    origin = None if source is None else remember(source)
    with _one_copy_per_name(artifact):
        artifact.add(table, name)
    if origin is not None:
        _refer(artifact, origin)


def remember(source: DataTable) -> Any:
    """Have wandb find the artifact of ``source``: it looks behind references among the last 100 only."""
    artifact = source._artifact
    if artifact is not None:
        _private().remember(artifact)
    return artifact


def _refer(artifact: Any, origin: Any) -> None:
    """Replace files that ``origin`` holds too by references to it, and drop their staged copies."""
    for path, entry in list(artifact.manifest.entries.items()):
        original = origin.manifest.entries.get(path)
        if original is None or original.digest != entry.digest or entry.ref is not None:
            continue
        if _private().refer(artifact, path, entry, origin):
            _private().drop_staged(entry.local_path)


@contextlib.contextmanager
def _one_copy_per_name(artifact: Any) -> Iterator[None]:
    """Within: ``artifact.add`` stages each table twice under one name; the first copy is removed."""
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
