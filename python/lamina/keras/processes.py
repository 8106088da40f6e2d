"""Decides which process of a distributed training saves: all of them have the same weights."""

from __future__ import annotations

import json
import os
import sys

import keras


def saves_here() -> bool:
    """Whether this process saves: it is the first one or the only one."""
    if keras.config.backend() == "jax":
        import jax

        return bool(jax.process_index() == 0)
    if keras.config.backend() == "torch" and "torch.distributed" in sys.modules:
        import torch.distributed

        distributed = torch.distributed
        return not distributed.is_initialized() or bool(distributed.get_rank() == 0)
    return True


def is_first() -> bool:
    """Whether this is the first process of a training, or the only one.

    Before the processes are connected, the launcher's environment variables decide.
    """
    return saves_here() and _launched_first()


def _launched_first() -> bool:
    if keras.config.backend() == "jax":
        import jax

        if jax.process_count() > 1:
            return True  # the processes are connected, and `saves_here` has decided
    if keras.config.backend() in ("jax", "torch"):
        return os.environ.get("RANK", "0") == "0"
    if keras.config.backend() == "tensorflow":
        return _is_chief(os.environ.get("TF_CONFIG", "{}"))
    return True


def _is_chief(text: str) -> bool:
    """Whether TF_CONFIG names the chief or, without a chief, the first worker."""
    try:
        config = json.loads(text)
        task, cluster = config["task"], config.get("cluster", {})
        kind, number = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError):
        return True
    others = not {"chief", "master"} & set(cluster)
    return number == 0 and (kind in ("chief", "master") or (kind == "worker" and others))
