"""A version that retention deletes while somebody reads it: its name stands at another one by then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import wandb

import lamina
import lamina.wandb
from lamina.errors import NotFoundError
from lamina.fetching.transfer import Range
from lamina.keras import WandbModelCheckpoint
from lamina.wandb.download.transfer import Transfer
from wandb_server import Server
from wandb_training import Follow, Remember, fit, same_weights, small_model

pytestmark = pytest.mark.wandb


def two_versions(layout: Any) -> tuple[str, Remember]:
    """``v0`` is the best, ``v1`` the latest."""
    remember = Remember()
    with wandb.init(project="p") as run:
        checkpoint = WandbModelCheckpoint("m.weights.h5", "score", mode="min", save_weights_only=True, layout=layout)
        fit(small_model(), remember, Follow([1.0, 2.0]), checkpoint, epochs=2)
        return f"{run.entity}/p/run_{run.id}_model", remember


@pytest.fixture
def delete_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Deletes ``v0`` when the fetch of this number begins, and gives its name to ``v1``."""

    def arrange(name: str, number: int) -> None:
        fetch, begun = Transfer.fetch, iter(range(100))

        def deleting(self: Transfer, ranges: Iterable[Range]) -> None:
            if next(begun) == number:
                newest = wandb.Api().artifact(f"{name}:v1")
                newest.aliases.append("best")
                newest.save()
                wandb.Api().artifact(f"{name}:v0").delete(delete_aliases=True)
            fetch(self, ranges)

        monkeypatch.setattr(Transfer, "fetch", deleting)

    return arrange


def by_restore(source: str, folder: Path) -> Any:
    model = small_model()
    lamina.restore(source, model)
    return model


def by_export(source: str, folder: Path) -> Any:
    model = small_model()
    (file,) = lamina.export(source, folder / "out")
    model.load_weights(file)
    return model


def by_pull(source: str, folder: Path) -> Any:
    model = small_model()
    lamina.restore(lamina.wandb.pull(source, folder / "repository"), model)
    return model


@pytest.mark.parametrize("read", [by_restore, by_export, by_pull])
@pytest.mark.parametrize(("layout", "at"), [("file", 0), ("packs", 0), ("packs", 1)])
def test_a_name_is_looked_up_once_more(
    wandb_online: Server, delete_at: Any, tmp_path: Path, layout: str, at: int, read: Callable[[str, Path], Any]
) -> None:
    name, remember = two_versions(layout)
    delete_at(name, at)
    assert same_weights(read(f"wandb:{name}:best", tmp_path), remember.weights[1])


@pytest.mark.parametrize(("layout", "at"), [("file", 0), ("packs", 0), ("packs", 1)])
def test_a_version_that_is_gone_is_not_found(wandb_online: Server, delete_at: Any, layout: str, at: int) -> None:
    name, _ = two_versions(layout)
    delete_at(name, at)
    artifact = wandb.Api().artifact(f"{name}:v0")
    model = small_model()
    before = model.get_weights()
    with pytest.raises(NotFoundError, match=rf"{name}:v0 was deleted on the server while it was read"):
        lamina.restore(artifact, model)
    with pytest.raises(NotFoundError, match=f"no artifact {name}:v0"):
        lamina.restore(f"wandb:{name}:v0", model)
    assert same_weights(model, before)
