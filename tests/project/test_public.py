"""The public names: their ``__module__``, their documentation, and their examples, each run in an empty directory."""

from __future__ import annotations

import doctest
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lamina
import lamina.keras
import lamina.wandb
from wandb_server import Server

MODULES = ("errors", "keras", "wandb")
PUBLIC = [
    (module, name)
    for module in (lamina, lamina.keras, lamina.wandb)
    for name in sorted(module.__dir__())
    if not (module is lamina and name in MODULES)
]
IDS = [f"{module.__name__}.{name}" for module, name in PUBLIC]


def test_dir_shows_the_public_names_only() -> None:
    names = {"Checkpointer", "Keep", "Repository", "Snapshot", "export", "load_model", "open", "read_tensors"}
    assert set(dir(lamina)) == names | {"average", "pull", "push", "restore", "save", *MODULES}
    assert set(dir(lamina)) - set(lamina.__all__) == {"keras", "open", "wandb"}
    assert dir(lamina.keras) == sorted(lamina.keras.__all__)
    assert dir(lamina.wandb) == sorted(lamina.wandb.__all__)


def test_a_star_import_works_without_wandb() -> None:
    code = "import builtins, sys; sys.modules['wandb'] = None\n"
    code += "from lamina import *\nprint(save.__name__, open is builtins.open)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "save True\n"), done.stderr


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=IDS)
def test_a_public_object_stands_where_users_find_it(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    assert value.__module__ == module.__name__
    assert pickle.loads(pickle.dumps(value)) is value


def test_objects_are_pickled() -> None:
    for value in (
        lamina.Keep(last=2),
        lamina.keras.EveryNEpochs(3),
        lamina.keras.EveryMinutes(3),
        lamina.keras.Overhead(0.5),
    ):
        again = pickle.loads(pickle.dumps(value))
        assert (type(again), repr(again)) == (type(value), repr(value))


def test_nothing_public_returns_anything() -> None:
    """Public functions have a precise return type: ``Any`` hides mistakes from type checkers."""
    functions = [getattr(module, name) for module, name in PUBLIC if inspect.isfunction(getattr(module, name))]
    assert [f.__name__ for f in functions if str(f.__annotations__["return"]) == "Any"] == []


def test_help_lists_the_forms_of_a_source() -> None:
    told = lamina.restore.__doc__ or ""
    for form in ('"DIR"', '"DIR@REF"', '"DIR@SERIES:REF"', ".weights.h5", "wandb:", "wandb.Artifact", "Snapshot"):
        assert form in told


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=IDS)
def test_examples(
    module: ModuleType, name: str, wandb_online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    value: Any = getattr(module, name)
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", {}, name, None, 0)
    assert examples.examples, "no example"
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
    assert not said, "".join(said)
