"""Runs: created or updated by UpsertBucket, filled by the file stream."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from .executor import GraphQLError
from .model import Run, now
from .state import State

# UpsertBucket's names -> the record's
_FIELDS = {
    "displayName": "display_name",
    "description": "description",
    "notes": "notes",
    "groupName": "group",
    "jobType": "job_type",
    "tags": "tags",
    "state": "state",
    "sweep": "sweep",
    "commit": "commit",
    "host": "host",
    "jobProgram": "program",
}
_STREAMS = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "output"}


class Runs:
    def __init__(self, state: State) -> None:
        self._state = state

    def find(self, entity: str | None, project: str | None, name: str) -> Run | None:
        found = self._state.project(entity, project)
        return self._state.runs.get((*found.key, name)) if found else None

    def get(self, entity: str | None, project: str | None, name: str) -> Run:
        run = self.find(entity, project, name)
        if run is None:
            raise GraphQLError(f"run {entity}/{project}/{name} not found")
        return run

    def by_id(self, run_id: str) -> Run:
        for run in self._state.runs.values():
            if run.id == run_id:
                return run
        raise GraphQLError(f"run {run_id!r} not found")

    def upsert(self, given: dict[str, Any]) -> tuple[Run, bool]:
        run, inserted = self._target(given)
        for source, target in _FIELDS.items():
            if given.get(source) is not None:
                setattr(run, target, given[source])
        if given.get("config") is not None:
            run.config = json.loads(given["config"])
        if given.get("summaryMetrics") is not None:
            run.summary = json.loads(given["summaryMetrics"])
        run.heartbeat_at = now()
        return run, inserted

    def _target(self, given: dict[str, Any]) -> tuple[Run, bool]:
        if given.get("id"):
            return self.by_id(given["id"]), False
        project = self._state.ensure_project(given.get("entityName"), given.get("modelName"))
        number = self._state.next_serial()
        name = given.get("name") or f"run{number}"
        key = (*project.key, name)
        if run := self._state.runs.get(key):
            if given.get("state") is None:
                run.state = "running"
            return run, False
        run = self._state.runs[key] = Run(number, project, name, f"display-{name}")
        return run, True

    def delete(self, run_id: str) -> None:
        run = self.by_id(run_id)
        del self._state.runs[run.key]

    def stream(self, run: Run, body: dict[str, Any]) -> dict[str, Any]:
        """Take one file stream request; chunks say where they start, so a repeated one changes nothing."""
        for name, chunk in (body.get("files") or {}).items():
            content, offset = chunk["content"], chunk.get("offset", 0)
            if name == "wandb-summary.json":
                run.summary = json.loads(content[-1])
            elif name in _STREAMS:
                lines = getattr(run, _STREAMS[name])
                lines.extend("" for _ in range(offset - len(lines)))
                lines[offset : offset + len(content)] = content
        if body.get("complete"):
            run.exit_code = body.get("exitcode")
            run.state = "failed" if run.exit_code else "finished"
        run.heartbeat_at = now()
        return {"stopped": True} if run.stop_requested else {}


def history_keys(run: Run) -> dict[str, Any] | None:
    """The overview of logged keys that `Api().run().history_keys` shows."""
    rows = [json.loads(line) for line in run.history if line]
    if not rows:
        return None
    counts = Counter(key for row in rows for key in row)
    keys = {key: {"typeCounts": [{"type": "number", "count": count}]} for key, count in counts.items()}
    return {"sets": [], "keys": keys, "lastStep": rows[-1].get("_step", len(rows) - 1)}


def sampled(run: Run, spec: str) -> list[dict[str, Any]]:
    """The rows that have all the keys asked for, reduced to them."""
    keys = json.loads(spec)["keys"]
    rows = (json.loads(line) for line in run.history if line)
    return [{key: row[key] for key in keys} for row in rows if all(key in row for key in keys)]
