"""Sweeps: a grid of parameters that agents ask for, one run at a time."""

from __future__ import annotations

import itertools
import json
from typing import Any

import yaml

from .executor import GraphQLError
from .model import Agent, Project, Sweep
from .state import State


class Sweeps:
    def __init__(self, state: State) -> None:
        self._state = state

    def upsert(self, given: dict[str, Any]) -> Sweep:
        """Only ``method: grid``: what a random search would pick is no matter of a server for tests."""
        project = self._state.ensure_project(given.get("entityName"), given.get("projectName"))
        config = yaml.safe_load(given["config"])
        if config.get("method") != "grid":
            raise GraphQLError(f"this server only searches grids. Received: {config.get('method')!r}")
        number = self._state.next_serial()
        sweep = Sweep(number, project, f"sweep{number}", _grid(config["parameters"]))
        self._state.sweeps[sweep.name] = sweep
        return sweep

    def named(self, project: Project, name: str) -> Sweep:
        sweep = self._state.sweeps.get(name)
        if sweep is None or sweep.project is not project:
            raise GraphQLError(f"sweep {name!r} not found")
        return sweep

    def register(self, given: dict[str, Any]) -> Agent:
        project = self._state.ensure_project(given.get("entityName"), given.get("projectName"))
        agent = Agent(self._state.next_serial(), self.named(project, given["sweep"]))
        self._state.agents[agent.id] = agent
        return agent

    def beat(self, given: dict[str, Any]) -> tuple[Agent, list[dict[str, Any]]]:
        """An agent without a run gets the next one; when none is left, it is sent home."""
        agent = self._state.agents.get(given["id"])
        if agent is None:
            raise GraphQLError(f"agent {given['id']!r} not found")
        if json.loads(given["runState"]):
            return agent, []
        sweep = agent.sweep
        if sweep.handed_out == len(sweep.grid):
            return agent, [{"type": "exit"}]
        parameters = sweep.grid[sweep.handed_out]
        sweep.handed_out += 1
        return agent, [{"type": "run", "run_id": f"{sweep.name}-{sweep.handed_out}", "args": parameters}]


def _grid(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    names = list(parameters)
    choices = [parameters[name].get("values") or [parameters[name]["value"]] for name in names]
    return [
        {name: {"value": value} for name, value in zip(names, some, strict=True)}
        for some in itertools.product(*choices)
    ]
