"""Which of several training processes saves: all of them hold the same weights."""

from __future__ import annotations

import json
import os
import sys

import keras


def saves_here() -> bool:
    """Whether this process is the first one, or the only one."""
    if keras.config.backend() == "jax":
        import jax

        return bool(jax.process_index() == 0)
    if keras.config.backend() == "torch" and "torch.distributed" in sys.modules:
        import torch.distributed

        distributed = torch.distributed
        return not distributed.is_initialized() or bool(distributed.get_rank() == 0)
    return True


def is_first() -> bool:
    """Whether this is the first of the processes of a training, or the only one, as far as one can tell already.

    Before the processes know of each other, their launcher's environment tells.
    """
    return saves_here() and _launched_first()


def _launched_first() -> bool:
    if keras.config.backend() == "jax":
        import jax

        if jax.process_count() > 1:
            return True  # they know of each other, and `saves_here` has asked
    if keras.config.backend() in ("jax", "torch"):
        return os.environ.get("RANK", "0") == "0"
    if keras.config.backend() == "tensorflow":
        return _is_chief(os.environ.get("TF_CONFIG", "{}"))
    return True


def _is_chief(text: str) -> bool:
    """Read TF_CONFIG: the chief, or the first worker where there is none."""
    try:
        config = json.loads(text)
        task, cluster = config["task"], config.get("cluster", {})
        kind, number = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError):
        return True
    others = not {"chief", "master"} & set(cluster)
    return number == 0 and (kind in ("chief", "master") or (kind == "worker" and others))
