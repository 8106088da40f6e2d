"""Training works with any release of Keras: each private name that lamina uses is removed once."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from lamina.keras import private
from places import HELPERS

pytestmark = pytest.mark.keras

#: The warning for each missing ability, and how often: once by each of two callbacks, or once in total. Without the
#: other abilities lamina is only slower.
TOLD = {
    "save": ("ModelCheckpoint", 2),
    "global_seed": ("layers without a seed", 1),
    "export_options": ("`options`", 1),
    "resume": ("initial_epoch=2", 1),
}
SAVING_LIB = private.saving_lib.__name__

_lacking: dict[str, list[str]] = {SAVING_LIB: ["save", "load"], "keras:Model._initial_epoch": ["resume"]}
for _ability, _modules in private.NEEDS.items():
    for _module, _names in _modules.items():
        for _name in _names:
            _lacking.setdefault(f"{_module}:{_name}", []).append(_ability)


def test_this_keras_has_them_all() -> None:
    assert {ability: private.why_not(ability) for ability in private.NEEDS} == dict.fromkeys(private.NEEDS, "")


@pytest.mark.parametrize(("private_name", "home"), [("keras.src", "keras"), ("wandb.sdk", "wandb")])
def test_one_file_uses_private_names(private_name: str, home: str) -> None:
    package = Path(private.__file__).parents[1]
    told = re.compile(rf"(from|import) {re.escape(private_name)}\b|['\"]{re.escape(private_name)}[.]\w")
    users = {file.relative_to(package) for file in package.rglob("*.py") if told.search(file.read_text())}
    assert users == {Path(home, "private.py")}


def backend_for(abilities: list[str]) -> str:
    """TensorFlow for export options; otherwise the backend that imports fastest."""
    if "export_options" in abilities or importlib.util.find_spec("jax") is None:
        return str(keras.config.backend())
    return "jax"


#: Each takes a process. `make test` tries every fourth, `make test-all` all of them.
_TRIED = list(_lacking) if os.environ.get("LAMINA_ALL") else list(_lacking)[::4]


@pytest.mark.parametrize("missing", _TRIED)
def test_training_goes_on_without(missing: str, tmp_path: Path) -> None:
    abilities = _lacking[missing]
    driver = [sys.executable, str(HELPERS / "other_keras.py"), str(tmp_path), missing]
    backend = backend_for(abilities)
    environment = dict(os.environ) | {"KERAS_BACKEND": backend}
    done = subprocess.run(driver, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD: ")]
    expected = dict(TOLD[ability] for ability in abilities if ability in TOLD)
    if backend != "tensorflow":
        expected.pop("`options`", None)
    assert {word: sum(word in line for line in told) for word in expected} == expected
    assert len(told) == sum(expected.values())
    assert all(missing.rpartition(":")[2].removeprefix("Model.") in line for line in told if ":" in missing)
