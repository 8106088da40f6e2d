"""Plans a model's file once, and captures its values at each save."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

from lamina.files.plan import FilePlan
from lamina.keras.capture.archive_plan import Members
from lamina.keras.capture.arena import ArenaPool, needed
from lamina.keras.capture.capture import Captured, StructureChangedError, capture, copied_sizes, device_sizes
from lamina.keras.capture.devices.stage import DeviceStage
from lamina.keras.capture.model_identity import ModelIdentity, Visited, identity_of, saved_variables, visits
from lamina.keras.capture.planned_file import PlannedFile
from lamina.keras.capture.template import make_template
from lamina.keras.capture.training_state import TrainingTensors
from lamina.keras.capture.variable_names import variable_names
from lamina.keras.capture.walk import FallbackToKeras, walk
from lamina.keras.private import saving_lib


@dataclass
class _CachedTemplate:
    """The file of all models with one structure."""

    plan: FilePlan
    literals: bytes
    structure: Any
    embedded: bool
    checked: bool = False


@dataclass
class _Values:
    """The variables to capture, in the order of the plan's tensors, and their names."""

    values: list[Any]
    visited: Visited
    names: list[str | None]


@dataclass
class _CachedValues:
    """The variables to capture, as long as the model is the same."""

    identity: ModelIdentity
    found: _Values


class Planner:
    """The plans of one saver; ``device_copy`` is that of its callback."""

    def __init__(self, device_copy: str = "auto") -> None:
        self._template: _CachedTemplate | None = None
        self._cached_values: _CachedValues | None = None
        self._disabled_because = ""
        self.arenas = ArenaPool()
        self.stage = DeviceStage(device_copy)

    @property
    def nbytes(self) -> int:
        """The expected size of the next capture in bytes."""
        return self._template.plan.size if self._template else 0

    def capture(
        self, model: Any, path: str, training: TrainingTensors, *, weights_only: bool, threads: int
    ) -> PlannedFile:
        """Capture what Keras would write to ``path``.

        Raises:
            FallbackToKeras: if only Keras's own save makes the right file.
        """
        if self._disabled_because:
            raise FallbackToKeras(self._disabled_because)
        for _ in range(2):
            cached, found = self._values(model, embedded=not weights_only)
            members = None if weights_only else _members(model, found.visited)
            try:
                sizes = [t.nbytes for t in cached.plan.tensors]
                captured = capture(
                    [*found.values, *training.values], sizes + training.sizes, self.arenas, self.stage, threads
                )
            except StructureChangedError:
                self.invalidate()
                continue
            name = os.path.basename(path)
            return PlannedFile(
                name,
                cached.plan,
                cached.literals,
                found.names,
                captured,
                members,
                training,
                threads,
                None if cached.checked else self._judge_of(cached),
            )
        raise FallbackToKeras("a variable's size does not match its declared shape")

    def prepare(self, model: Any) -> None:
        """Prefault the memory of the first capture while training continues: it may take many times the copy."""
        variables = saved_variables(model)
        self.arenas.prepare(needed(copied_sizes(variables)))
        self.stage.prepare(device_sizes(variables))

    def capture_values(self, training: TrainingTensors, threads: int) -> Captured:
        """Capture the training state alone."""
        return capture(training.values, training.sizes, self.arenas, self.stage, threads)

    def invalidate(self) -> None:
        """Plan again at the next save, and keep no model alive."""
        self._cached_values = None
        self._template = None

    def release(self) -> None:
        """Training has ended: free the memory, and keep no model alive."""
        self._cached_values = None
        self.arenas.clear()
        self.stage.release()

    def _values(self, model: Any, *, embedded: bool) -> tuple[_CachedTemplate, _Values]:
        cached, values_known = self._template, self._cached_values
        if cached is not None and cached.embedded == embedded:
            if values_known is not None and values_known.identity.matches(model):
                return cached, values_known.found
            self._cached_values = None
            with visits() as visited:
                walked = walk(model)
            if walked.structure == cached.structure:
                by_name = {entry.name: entry.value for entry in walked.entries}
                values = [by_name[tensor.name] for tensor in cached.plan.tensors]
                return cached, self._cache_values(model, cached, values, visited)
        with visits() as visited:
            template = make_template(model, embedded=embedded)
        self._template = _CachedTemplate(template.plan, template.literals, template.structure, embedded)
        return self._template, self._cache_values(model, self._template, template.values, visited)

    def _cache_values(self, model: Any, cached: _CachedTemplate, values: list[Any], visited: Visited) -> _Values:
        paths = [tensor.name for tensor in cached.plan.tensors]
        names = variable_names(zip(paths, values, strict=True), visited)
        found = _Values(values, visited, [names.get(path) for path in paths])
        identity = identity_of(model, values, visited)
        self._cached_values = None if identity is None else _CachedValues(identity, found)
        return found

    def _judge_of(self, cached: _CachedTemplate) -> Any:
        def judge(right: bool) -> None:
            cached.checked = True
            if not right:
                self._disabled_because = "a file that lamina wrote did not read back correctly"
                warnings.warn(
                    "a checkpoint file that lamina just wrote does not read back as the captured tensors. "
                    "Do not trust this file. From now on lamina uses Keras's own save. "
                    "Please report this as a bug of lamina",
                    RuntimeWarning,
                    stacklevel=2,
                )

        return judge


def _members(model: Any, visited: Visited) -> Members:
    config, metadata = saving_lib._serialize_model_as_json(model)
    return Members(config.encode(), metadata.encode(), _assets(visited))


def _assets(visited: Visited) -> Any:
    """The files that layers save beside the weights, such as vocabularies; None if there are none."""
    owners = [(saveable, path) for saveable, path in visited if hasattr(saveable, "save_assets")]
    if not owners:
        return None
    store = saving_lib.DiskIOStore(saving_lib._ASSETS_DIRNAME, archive=True, mode="w")
    for saveable, path in owners:
        saveable.save_assets(store.make(path))
    return store
