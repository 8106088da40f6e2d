"""W&B Tables inside artifacts, and tables whose cells refer to another artifact's."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any


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
        _log_used_offline(run, artifact)
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


def _log_used_offline(run: Any, artifact: Any) -> None:
    """``run.use_artifact`` refuses offline, yet a sync can tell the server that the run used the artifact."""
    try:
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    except (AttributeError, TypeError):  # another wandb: the same artifact, as an output
        run.log_artifact(artifact)


def remember(source: DataTable) -> Any:
    """Have wandb find the artifact of ``source``: it looks behind references among the last 100 only."""
    artifact = source._artifact
    if artifact is not None:
        with contextlib.suppress(ImportError, AttributeError):
            from wandb.sdk.artifacts.artifact_instance_cache import artifact_instance_cache_by_client_id

            artifact_instance_cache_by_client_id[artifact._client_id] = artifact
    return artifact


def _refer(artifact: Any, origin: Any) -> None:
    """Replace files that ``origin`` holds too by references to it, and drop their staged copies."""
    for path, entry in list(artifact.manifest.entries.items()):
        original = origin.manifest.entries.get(path)
        if original is None or original.digest != entry.digest or entry.ref is not None:
            continue
        artifact.manifest.remove_entry(entry)
        artifact.add_reference(f"wandb-client-artifact://{origin._client_id}/{path}", name=path)
        _drop_staged(entry.local_path)


@contextlib.contextmanager
def _one_copy_per_name(artifact: Any) -> Iterator[None]:
    """Within: ``artifact.add`` stages each table twice under one name; the first copy is removed."""
    add_file = artifact.add_file

    def add_once(*args: Any, **kwargs: Any) -> Any:
        before = {path: entry.local_path for path, entry in artifact.manifest.entries.items()}
        entry = add_file(*args, **kwargs)
        stale = before.get(entry.path)
        if stale and stale != entry.local_path:
            _drop_staged(stale)
        return entry

    artifact.add_file = add_once
    try:
        yield
    finally:
        del artifact.add_file


def _drop_staged(path: str | None) -> None:
    from wandb.sdk.artifacts.staging import get_staging_dir

    if path and os.path.dirname(path) == os.path.abspath(get_staging_dir()):
        with contextlib.suppress(OSError):
            os.unlink(path)
