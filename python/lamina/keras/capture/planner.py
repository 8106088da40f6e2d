"""Learns a model's file once, and captures into it at every save."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

from lamina.files.plan import FilePlan
from lamina.keras.capture.archive_plan import Members
from lamina.keras.capture.arena import Arenas, needed
from lamina.keras.capture.capture import Captured, StructureChangedError, capture, copied_sizes
from lamina.keras.capture.planned_file import PlannedFile
from lamina.keras.capture.structure_guard import Guard, Visited, guard, saved_variables, visits
from lamina.keras.capture.template import learn
from lamina.keras.capture.training_state import TrainingTensors
from lamina.keras.capture.walk import NotPlannable, walk
from lamina.keras.private import saving_lib


@dataclass
class _Learnt:
    """The file of one structure."""

    plan: FilePlan
    literals: bytes
    structure: Any
    embedded: bool
    checked: bool = False


@dataclass
class _Known:
    """Where the values of the next save are, as long as the guard holds."""

    guard: Guard
    values: list[Any]
    visited: Visited


class Planner:
    """The plans of one callback; a copy learns its own."""

    def __init__(self) -> None:
        self._learnt: _Learnt | None = None
        self._known: _Known | None = None
        self._distrusted = ""
        self.arenas = Arenas()

    @property
    def nbytes(self) -> int:
        """What the next capture will probably hold."""
        return self._learnt.plan.size if self._learnt else 0

    def capture(
        self, model: Any, path: str, training: TrainingTensors, *, weights_only: bool, threads: int
    ) -> PlannedFile:
        """Capture what Keras would write to ``path``.

        Raises:
            NotPlannable: if only Keras's own save makes the right file.
        """
        if self._distrusted:
            raise NotPlannable(self._distrusted)
        for _ in range(2):
            learnt, values, visited = self._values(model, embedded=not weights_only)
            members = None if weights_only else _members(model, visited)
            try:
                sizes = [t.nbytes for t in learnt.plan.tensors]
                captured = capture([*values, *training.values], sizes + training.sizes, self.arenas, threads)
            except StructureChangedError:
                self.forget()
                continue
            name = os.path.basename(path)
            return PlannedFile(
                name,
                learnt.plan,
                learnt.literals,
                captured,
                members,
                training,
                threads,
                None if learnt.checked else self._judge_of(learnt),
            )
        raise NotPlannable("a variable holds more or less than it says")

    def prepare(self, model: Any) -> None:
        """Get the memory of the first capture while training goes on: fresh, it may cost many times the copy."""
        self.arenas.prepare(needed(copied_sizes(saved_variables(model))))

    def capture_values(self, training: TrainingTensors, threads: int) -> Captured:
        """Capture the training state alone."""
        return capture(training.values, training.sizes, self.arenas, threads)

    def forget(self) -> None:
        """Learn anew at the next save, and hold no model."""
        self._known = None
        self._learnt = None

    def end(self) -> None:
        """Training has ended: keep no memory, and no model alive."""
        self._known = None
        self.arenas.clear()

    def _values(self, model: Any, *, embedded: bool) -> tuple[_Learnt, list[Any], Visited]:
        learnt, known = self._learnt, self._known
        if learnt is not None and learnt.embedded == embedded:
            if known is not None and known.guard.holds(model):
                return learnt, known.values, known.visited
            self._known = None
            with visits() as visited:
                walked = walk(model)
            if walked.structure == learnt.structure:
                by_name = {entry.name: entry.value for entry in walked.entries}
                values = [by_name[tensor.name] for tensor in learnt.plan.tensors]
                self._remember(model, values, visited)
                return learnt, values, visited
        with visits() as visited:
            template = learn(model, embedded=embedded)
        self._learnt = _Learnt(template.plan, template.literals, template.structure, embedded)
        self._remember(model, template.values, visited)
        return self._learnt, template.values, visited

    def _remember(self, model: Any, values: list[Any], visited: Visited) -> None:
        found = guard(model, values, visited)
        self._known = None if found is None else _Known(found, values, visited)

    def _judge_of(self, learnt: _Learnt) -> Any:
        def judge(right: bool) -> None:
            learnt.checked = True
            if not right:
                self._distrusted = "a file that lamina wrote did not read back as captured"
                warnings.warn(
                    "a checkpoint file that lamina has just written does not read back as what was captured. "
                    "Its contents are suspect, and Keras's own save is used from now on. "
                    "Please report this as a bug of lamina",
                    RuntimeWarning,
                    stacklevel=2,
                )

        return judge


def _members(model: Any, visited: Visited) -> Members:
    config, metadata = saving_lib._serialize_model_as_json(model)
    return Members(config.encode(), metadata.encode(), _assets(visited))


def _assets(visited: Visited) -> Any:
    """What Keras's layers write beside the weights, such as vocabularies; None where there is nothing."""
    owners = [(saveable, path) for saveable, path in visited if hasattr(saveable, "save_assets")]
    if not owners:
        return None
    store = saving_lib.DiskIOStore(saving_lib._ASSETS_DIRNAME, archive=True, mode="w")
    for saveable, path in owners:
        saveable.save_assets(store.make(path))
    return store
