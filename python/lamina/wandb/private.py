"""The private names of wandb that lamina uses; no other file uses one.

Each name is looked up once, at import. If a wandb release lacks one, or its arguments changed, the functions here fall
back to public calls, or tell the caller that they cannot.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

#: Module and name. `tests/wandb/test_wandb_private.py` takes each away in turn.
NAMES = (
    ("wandb.sdk.artifacts.artifact_manifest_entry", "ArtifactManifestEntry"),
    ("wandb.sdk.artifacts.artifact_instance_cache", "artifact_instance_cache_by_client_id"),
    ("wandb.sdk.artifacts.staging", "get_staging_dir"),
    ("wandb.sdk.lib.telemetry", "context"),
    ("wandb.sdk.wandb_run", "TeardownHook"),
    ("wandb.sdk.wandb_run", "TeardownStage"),
)


def _find(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


_Entry, _artifacts_by_client, _staging_folder, _telemetry, _Hook, _Stage = (_find(*name) for name in NAMES)


def _make_thread_safe(cache: Any) -> None:
    """Let several threads make artifacts: wandb's cache of the last 100 raises KeyError if two of them drop the same.

    lamina makes artifacts in threads of its own, so without this an artifact that the user makes could fail, too.
    """
    kind, lock = type(cache), threading.Lock()

    def set_item(self: Any, key: str, value: Any) -> None:
        with lock:
            kind.__setitem__(self, key, value)

    with contextlib.suppress(AttributeError, TypeError):  # this wandb has another cache
        cache.__class__ = type(kind.__name__, (kind,), {"__setitem__": set_item})


_make_thread_safe(_artifacts_by_client)


def add_entry(artifact: Any, **fields: Any) -> bool:
    """Declare a file of an artifact by its digest, without reading it; False if this wandb cannot."""
    try:
        artifact.manifest.add_entry(_Entry(**fields), overwrite=True)
    except (AttributeError, TypeError):
        return False
    return True


def at_end_of_run(run: Any, before: Callable[[], object], after: Callable[[], object]) -> None:
    """Call ``before`` while the run can still log, and ``after`` when it has sent everything."""
    try:
        run._teardown_hooks += [_Hook(before, _Stage.EARLY), _Hook(after, _Stage.LATE)]
    except (AttributeError, TypeError):
        _wrap_finish(run, before, after)


def _wrap_finish(run: Any, before: Callable[[], object], after: Callable[[], object]) -> None:
    """The same through ``run.finish``; a run that is not finished ends with its process."""
    finish = run.finish

    @functools.wraps(finish)
    def finish_between(*arguments: Any, **named: Any) -> Any:
        atexit.unregister(before)
        before()
        try:
            return finish(*arguments, **named)
        finally:
            after()

    atexit.register(before)
    run.finish = finish_between


def mark_feature(run: Any, feature: str) -> None:
    """Tell W&B's telemetry which callback is in use, if this wandb knows the feature."""
    with contextlib.suppress(AttributeError, TypeError), _telemetry(run=run) as record:
        setattr(record.feature, feature, True)


def log_as_input(run: Any, artifact: Any) -> None:
    """Log an artifact as an input of an offline run, which ``run.use_artifact`` refuses; a sync can send it."""
    try:
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    except (AttributeError, TypeError):  # log it as an output instead
        run.log_artifact(artifact)


def remember(artifact: Any) -> None:
    """Let wandb find an artifact that references point to: it remembers only the last 100."""
    with contextlib.suppress(AttributeError, TypeError):
        _artifacts_by_client[artifact._client_id] = artifact


def refer(artifact: Any, path: str, entry: Any, origin: Any) -> bool:
    """Replace a file that ``origin`` also holds by a reference to it; False if this wandb has no such references."""
    if (client := getattr(origin, "_client_id", None)) is None or not hasattr(artifact.manifest, "remove_entry"):
        return False
    artifact.manifest.remove_entry(entry)
    artifact.add_reference(f"wandb-client-artifact://{client}/{path}", name=path)
    return True


def drop_staged(path: str | None) -> None:
    """Remove wandb's staged copy of a file that will not be uploaded; no file elsewhere is touched."""
    if path and _staging_folder is not None and os.path.dirname(path) == os.path.abspath(_staging_folder()):
        with contextlib.suppress(OSError):
            os.unlink(path)
