"""What a notebook shows: tables in which names are text and nothing else, and a data frame."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lamina
from engine_repositories import File, Saved, Tensor, save_memory
from lamina.errors import LaminaError
from lamina.repository.repository import open_or_create

HOSTILE = "<script>alert(1)</script>\u202e&"


class Cells(HTMLParser):
    """The texts of a page, and the tags in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def save(repository: Any, value: float, **fields: Any) -> lamina.Snapshot:
    tensor = Tensor(f"layers/{HOSTILE}/vars/0", "<f4", np.full(8, value, "<f4"))
    known = {"series": "s", "kind": "weights", "monitor": "val_loss", "mode": "min", "value": value, **fields}
    return save_memory(repository, Saved([File("m.weights.h5", ((b"x", tensor),))], fields=known))


@pytest.fixture
def repository(tmp_path: Path) -> lamina.Repository:
    made = open_or_create(tmp_path / "repo")
    for epoch, value in enumerate([0.5, 0.25]):
        save(
            made, value, epoch=epoch, best=True, logs={"val_loss": value, "epoch": 7.0, HOSTILE: value}, series=HOSTILE
        )
    return made


def test_names_in_tables_are_text(repository: lamina.Repository) -> None:
    shown = [repository, repository.snapshot(2), repository.diff(1, 2)]
    for value in shown:
        page = Cells(value._repr_html_())
        assert page.tags <= {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}
        text = "".join(page.texts)
        assert "<script>alert(1)</script>\\u202e&" in text
        assert "\u202e" not in text


def test_tables_hold_what_there_is(repository: lamina.Repository) -> None:
    found = Cells(repository._repr_html_()).texts
    assert {"val_loss 0.25 *", "latest, best, epoch_1", repository.snapshot(1).id[:8]} <= set(found)
    assert found.index("2") < found.index("1")  # the newest first
    assert ": 2 snapshots" in found
    one = Cells(repository.snapshot("best")._repr_html_()).texts
    assert {"monitored", "val_loss 0.25 *", "aliases", "latest, best, epoch_1"} <= set(one)
    assert "1 of 1 tensor changed" in Cells(repository.diff(1, 2)._repr_html_()).texts
    assert "0 of 1 tensor changed" in Cells(repository.diff(1, 1)._repr_html_()).texts
    for value in range(30):
        save(repository, value)
    assert Cells(repository._repr_html_()).texts.count("s") == 20
    assert list(repository.diff(1, 2)) == sorted(repository.diff(1, 2), key=lambda one: -one.changed_bytes)


def test_a_data_frame_has_a_row_for_each_snapshot(repository: lamina.Repository) -> None:
    save(repository, 1.0, series="other")
    frame = repository.to_dataframe()
    assert list(frame.index) == [1, 2, 3]
    assert frame.index.name == "number"
    assert list(frame["val_loss"][:2]) == [0.5, 0.25]
    assert list(frame["epoch"][:2]) == [0, 1]
    assert list(frame["logs.epoch"][:2]) == [7.0, 7.0]
    assert frame["aliases"][2] == ["latest", "best", "epoch_1"]
    assert str(frame["created_at"].dt.tz) == "UTC"
    assert list(repository.to_dataframe("other").index) == [3]
    assert frame.sort_values("value").index[0] == 2


def test_an_empty_repository_has_an_empty_frame(tmp_path: Path) -> None:
    frame = open_or_create(tmp_path / "repo").to_dataframe()
    assert len(frame) == 0
    assert {"id", "epoch", "value", "aliases"} <= set(frame.columns)


def test_without_pandas_the_error_says_so(repository: lamina.Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LaminaError, match="pip install pandas"):
        repository.to_dataframe()
