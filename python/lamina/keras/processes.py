"""Which of several training processes saves: all of them hold the same weights."""

from __future__ import annotations

import sys

from keras.src import backend


def saves_here() -> bool:
    """Whether this process is the first one, or the only one."""
    if backend.backend() == "jax":
        import jax

        return bool(jax.process_index() == 0)
    if backend.backend() == "torch" and "torch.distributed" in sys.modules:
        import torch.distributed

        distributed = torch.distributed
        return not distributed.is_initialized() or bool(distributed.get_rank() == 0)
    return True
