"""Queries to a W&B server. Any of them may stay without an answer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import wandb

from lamina.errors import ArtifactError, InvalidInputError, NotFoundError

#: Older releases hash every file again, and their `wandb sync` deletes the files that it has sent.
OLDEST = (0, 30)


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
            raise ArtifactError(f"cannot reach W&B: {reason(error)}") from error

    def qualified(self, name: str) -> str:
        prefix = [part for part in (self.entity, self.project) if part]
        return "/".join([*prefix, name]) if self.project else name

    def artifact(self, name: str) -> Any:
        """The version of this name, ``[entity/][project/]name:alias``.

        Raises:
            NotFoundError: if there is none.
            InvalidInputError: if the name is malformed.
            ArtifactError: if the server does not answer.
        """
        try:
            return self.api.artifact(name)
        except (wandb.Error, ValueError) as error:
            said = reason(error)
            if "not found" in said or "does not contain" in said or "unable to fetch" in said.lower():
                raise NotFoundError(f"W&B has no artifact {name}: {said}") from error
            if said.startswith("Invalid artifact path"):
                raise InvalidInputError(f"expected [ENTITY/][PROJECT/]NAME:ALIAS. Received: {name!r}") from error
            raise ArtifactError(f"cannot look up the artifact {name} in W&B: {said}") from error

    def committed(self, name: str, reference: str) -> Any | None:
        """A committed version that is not deleted; None if there is none or the server does not answer."""
        try:
            found = self.artifact(f"{self.qualified(name)}:{reference}")
            return found if str(found.state).endswith("COMMITTED") else None
        except Exception:
            return None


def reason(error: Exception) -> str:
    """The first line of a wandb error, without the list of attempts below it."""
    return next(iter(str(error).splitlines()), "") or repr(error)


def full_name(artifact: Any) -> str:
    """``entity/project/name:vN``, whatever alias it was found by."""
    return f"{artifact.entity}/{artifact.project}/{artifact.name.split(':')[0]}:{artifact.version}"


def check_release(release: str | None = None) -> None:
    """Warn about a wandb release that is too old."""
    release = release or wandb.__version__
    numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        warnings.warn(
            f"wandb {release} is too old for offline runs: it deletes the files that it uploads. Online runs are slow. "
            "lamina needs wandb 0.30 or newer: pip install -U wandb",
            stacklevel=3,
        )
