"""Inputs, predictions and targets of a few examples, as W&B images with captions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from lamina.keras.media.pixels import pixels, value_range

PICTURES = ("image", "images", "segmentation_mask")
KINDS = (*PICTURES, "label")


def guess_kind(shape: Sequence[int | None], risky: bool = False) -> str | None:
    """The kind of data by its shape, with the batch; ``risky`` takes rank 3 for grey images, not sequences."""
    shape = _channels_last_shape(shape)
    if len(shape) in (1, 2):
        return "label"
    if len(shape) == 3 and risky:
        return "image"
    if len(shape) == 4:
        return "image" if shape[-1] in (1, 3, 4) else "segmentation_mask"
    return None


@dataclass
class PredictionImages:
    """Makes the images of one epoch; a kind is None if it is unknown."""

    input_kind: str | None
    output_kind: str | None
    labels: Sequence[Any] = ()
    class_colors: Any = None
    _warned: set[str] = field(default_factory=set)

    def make(self, x: Any, y: Any, predicted: Any) -> list[Any]:
        """One image per input, prediction and target of each example, example by example."""
        shown_output = self.output_kind in PICTURES
        columns = []
        captions: Sequence[Any] | None = None
        if self.input_kind in PICTURES:
            columns.append(self._pictures(x, self.input_kind, x))
            if self.output_kind == "label":
                captions = self._captions(predicted)
        elif self.input_kind == "label" and shown_output:
            captions = self._captions(x)
        if shown_output:
            like = predicted if y is None else y
            columns.append(self._pictures(predicted, self.output_kind, like))
            if y is not None:
                columns.append(self._pictures(y, self.output_kind, like, classes=_classes(predicted)))
        return _interleave(columns, captions)

    def _pictures(self, data: Any, kind: str | None, like: Any, classes: int = 1) -> Any:
        """Pixels of the data; ``like`` is the data whose range of values applies."""
        data = _channels_last(data)
        if kind == "segmentation_mask":
            colored = self._colored(data, classes)
            if colored is not None:
                return pixels(colored, (0.0, 1.0))
        return [_tiled(picture) for picture in pixels(data, value_range(like))]

    def _colored(self, masks: Any, classes: int) -> Any:
        """Masks in the colors of their classes; None for a binary mask."""
        if masks.ndim == 4 and masks.shape[-1] > 1:
            return self._palette(masks.shape[-1])[masks.argmax(axis=-1)]
        numbers = masks[..., 0] if masks.ndim == 4 else masks
        if classes > 1 and numbers.dtype.kind in "iu":
            return self._palette(classes)[numbers.clip(0, classes - 1)]
        return None

    def _palette(self, classes: int) -> Any:
        if self.class_colors is not None and len(self.class_colors) >= classes:
            return np.asarray(self.class_colors, dtype="float32")
        if self.class_colors is not None:
            self._warn(f"`class_colors` has {len(self.class_colors)} of {classes} classes: using others")
        from colorsys import hsv_to_rgb

        hues = [hsv_to_rgb(i / (classes - 1), 1.0, 1.0) for i in range(classes - 1)]
        return np.array([(0.0, 0.0, 0.0), *hues], dtype="float32")  # class 0 is the background: black

    def _captions(self, scores: Any) -> list[Any]:
        scores = scores.reshape(len(scores), -1)
        if scores.shape[1] > 1:
            return [self._name(int(best)) for best in scores.argmax(axis=1)]
        if len(self.labels) == 2:
            return [self.labels[int(score > 0.5)] for score in scores[:, 0]]
        if len(self.labels):
            self._warn('for a single output `labels` should be ["label for false", "label for true"]')
        return [score.item() for score in scores[:, 0]]

    def _name(self, label: int) -> Any:
        return self.labels[label] if label < len(self.labels) else label

    def _warn(self, message: str) -> None:
        import wandb

        if message not in self._warned:
            self._warned.add(message)
            wandb.termwarn(f"WandbCallback: {message}")


def _interleave(columns: list[Any], captions: Sequence[Any] | None) -> list[Any]:
    import wandb

    images = []
    for i in range(len(columns[0]) if columns else 0):
        caption = None if captions is None else str(captions[i])
        for n, column in enumerate(columns):
            grouping = len(columns) if n == 0 and len(columns) > 1 else None
            images.append(wandb.Image(column[i], caption=caption, grouping=grouping))
    return images


def _channels_last_shape(shape: Sequence[int | None]) -> Sequence[int | None]:
    if len(shape) == 4 and keras.config.image_data_format() == "channels_first":
        return (shape[0], shape[2], shape[3], shape[1])
    return tuple(shape)


def _channels_last(data: Any) -> Any:
    if keras.config.image_data_format() == "channels_first" and data.ndim >= 4:
        return np.moveaxis(data, -3, -1)
    return data


def _classes(scores: Any) -> int:
    """The number of classes in predicted masks."""
    scores = _channels_last(scores)
    return int(scores.shape[-1]) if scores.ndim == 4 else 1


def _tiled(picture: Any) -> Any:
    """Put several pictures of one example side by side."""
    return np.concatenate(list(picture), axis=1) if picture.ndim == 4 else picture
