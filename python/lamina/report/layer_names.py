"""Which layer a tensor belongs to."""

from __future__ import annotations

from lamina.repository.tensor import TensorInfo

#: What the bytes of files are called that no tensor holds.
HEADERS = "(file headers)"
#: Folders that Keras puts around the names of layers.
_WRAPPERS = ("layers", "_layer_checkpoint_dependencies")


def layer_of(name: str, tensor: TensorInfo) -> str:
    """The path of the layer in the model, as short as it is without doubt; ``name`` may begin with the file."""
    if tensor.file is None:
        return "training state"
    file = f"{tensor.file}:" if name.startswith(f"{tensor.file}:") else ""
    folder, found, _ = f"/{name.removeprefix(file)}".rpartition("/vars/")
    if not found:
        folder = name.removeprefix(file).rpartition("/")[0]
    parts = [part for part in folder.split("/") if part and part not in _WRAPPERS]
    return file + ("/".join(parts) or "model")
