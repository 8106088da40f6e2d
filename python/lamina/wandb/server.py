"""What we ask of a W&B server besides uploads; every answer may be "I do not know"."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import wandb

from lamina.errors import ArtifactError, NotFoundError


@dataclass(frozen=True)
class Server:
    """A project of a W&B server."""

    entity: str | None = None
    project: str | None = None
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def of_run(cls, run: Any) -> Server:
        settings = run.settings
        return cls(run.entity or None, run.project, settings.base_url, settings.api_key)

    @cached_property
    def api(self) -> Any:
        try:
            overrides = {"entity": self.entity, "project": self.project, "base_url": self.base_url}
            return wandb.Api({key: value for key, value in overrides.items() if value}, api_key=self.api_key)
        except Exception as error:
            raise ArtifactError(f"cannot reach W&B: {error}") from error

    def qualified(self, name: str) -> str:
        return f"{self.entity}/{self.project}/{name}" if self.entity and self.project else name

    def artifact(self, name: str) -> Any:
        """The version of this name, ``[entity/][project/]name:alias``.

        Raises:
            NotFoundError: if there is none.
            ArtifactError: if the server cannot say.
        """
        try:
            return self.api.artifact(name)
        except (wandb.Error, ValueError) as error:
            if "not found" in str(error) or "does not contain" in str(error) or "unable to fetch" in str(error).lower():
                raise NotFoundError(f"W&B has no artifact {name}: {error}") from error
            raise ArtifactError(f"W&B did not give the artifact {name}: {error}") from error

    def committed(self, name: str, reference: str) -> Any | None:
        """A version that is alive and committed, or None, also where the server cannot say."""
        try:
            found = self.artifact(f"{self.qualified(name)}:{reference}")
            return found if str(found.state).endswith("COMMITTED") else None
        except Exception:
            return None
