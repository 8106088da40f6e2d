"""Processors that add readable columns to a table of arrays: classes, scores, images. Guessed from one example."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from lamina.keras.media.pixels import pixels, value_range

Processor = Callable[[int, dict[str, Any]], dict[str, Any]]
Cell = Callable[[Any, Any], Any]

FEW = 10  # up to this many numbers are shown one by one


class Labels:
    """Class names as a table, so that cells can refer to its rows."""

    def __init__(self, names: list[Any]) -> None:
        import wandb

        self.names = [str(name) for name in names]
        self.table = wandb.Table(columns=["label"], data=[[name] for name in self.names])

    def __len__(self) -> int:
        return len(self.names)

    def cell(self, label: int) -> Any:
        """A reference to the label's row; the number itself if there is no such label."""
        return self.table.index_ref(label) if 0 <= label < len(self.names) else label


def infer_processor(
    columns: dict[str, Any], labels: Labels | None, base: Callable[[int], Any] | None = None
) -> Processor | None:
    """A processor that adds columns named ``<column>:<meaning>``; None if it can add none.

    ``base`` returns the input of a row: the picture under a mask.
    """
    cells: dict[str, tuple[str, Cell]] = {}
    example_base = base(0) if base is not None else None
    for column, values in columns.items():
        for meaning, cell in _cells(np.asarray(values), labels, example_base).items():
            cells[f"{column}:{meaning}"] = (column, cell)
    if not cells:
        return None

    def process(index: int, row: dict[str, Any]) -> dict[str, Any]:
        under = base(int(index)) if base is not None else None
        return {name: cell(np.asarray(row[column]), under) for name, (column, cell) in cells.items()}

    return process


def _cells(values: Any, labels: Labels | None, base: Any) -> dict[str, Cell]:
    example = values[0]
    if example.ndim == 0:
        return _class_number(labels) if labels and example.dtype.kind in "iu" else {}
    if example.ndim == 1:
        return _vector(example, labels)
    return _picture(values, labels, base)


def _class_number(labels: Labels | None) -> dict[str, Cell]:
    if labels is None:
        return {"val": lambda value, _: value.reshape(-1)[0].item()}
    return {"class": lambda value, _: labels.cell(int(value.reshape(-1)[0]))}


def _vector(example: Any, labels: Labels | None) -> dict[str, Cell]:
    one_hot = set(np.unique(example).tolist()) == {0, 1}
    if labels is not None and len(example) == len(labels):
        cells: dict[str, Cell] = {"max_class": lambda value, _: labels.cell(int(value.argmax()))}
        if not one_hot:
            cells["score"] = lambda value, _: dict(zip(labels.names, value.tolist(), strict=True))
        return cells
    if len(example) == 1 and example.dtype.kind in "iu":
        return _class_number(labels)
    cells = {"argmax": lambda value, _: int(value.argmax())}
    if len(example) <= FEW:
        cells["node"] = lambda value, _: value.tolist()
    if not one_hot:
        cells["argmin"] = lambda value, _: int(value.argmin())
    return cells


def _picture(values: Any, labels: Labels | None, base: Any) -> dict[str, Cell]:
    import wandb

    example, meant = values[0], value_range(values)
    if example.ndim == 2 and labels and base is not None and example.shape == base.shape[:2]:
        names = dict(enumerate(labels.names))

        def masked(value: Any, under: Any) -> Any:
            mask = {"mask_data": value.astype("int64"), "class_labels": names}
            return wandb.Image(pixels(under, value_range(under)), masks={"masks": mask})

        return {"image": masked}
    if example.ndim in (2, 3) and (example.ndim == 2 or example.shape[-1] in (1, 3, 4)):
        return {"image": lambda value, _: wandb.Image(pixels(value, meant))}
    if example.ndim == 4 and find_spec("moviepy") is not None:
        return {"video": lambda value, _: wandb.Video(pixels(value, meant))}
    return {}
