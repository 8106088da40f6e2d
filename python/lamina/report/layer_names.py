"""The layer that a tensor belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lamina.repository.tensor import TensorInfo

#: The name for bytes of files that belong to no tensor.
HEADERS = "(file headers)"
#: Folders that Keras puts around the names of layers.
_WRAPPERS = ("layers", "_layer_checkpoint_dependencies")


def layer_of(name: str, tensor: TensorInfo) -> str:
    """The shortest unambiguous path of the layer in the model; ``name`` may begin with the file."""
    if tensor.file is None:
        return "training state"
    file = f"{tensor.file}:" if name.startswith(f"{tensor.file}:") else ""
    folder, found, _ = f"/{name.removeprefix(file)}".rpartition("/vars/")
    if not found:
        folder = name.removeprefix(file).rpartition("/")[0]
    parts = [part for part in folder.split("/") if part and part not in _WRAPPERS]
    return file + ("/".join(parts) or "model")


def own_layers(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Layer by its path in the file → what the user called it, where that is known and no other layer has the name.

    The path says which layers of two versions are the same one: Keras numbers the names of layers anew in each process.
    """
    called: dict[str, str] = {}
    for path, tensor in tensors.items():
        folder = (tensor.variable or "").rpartition("/")[0] if tensor.role == "weights" else ""
        layer = layer_of(path, tensor)
        called[layer] = called.get(layer) or folder
    count = Counter(called.values())
    return {
        layer: name if name and count[name] == 1 and name not in called else layer for layer, name in called.items()
    }
