"""Wherever a source is taken, a bucket is one: every call and every verb of the table in test_addresses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from test_addresses import READ_VERBS, READS

import lamina
from bucket_server import SECRET


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    """A model, saved in the repository ``repo``."""
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    lamina.save(model, "repo", aliases=["paper"])
    return model


@pytest.mark.parametrize("ref", ["", "@latest", "@default:paper"])
def test_every_call_reads_from_a_bucket(ref: str, bucket: str, model: keras.Model) -> None:
    lamina.push("repo", bucket)
    for name, call in READS.items():
        if name != "open" or not ref:
            assert call(f"{bucket}{ref}", model), name
    assert (lamina.load_model(f"{bucket}{ref}").weights[0].numpy() == model.weights[0].numpy()).all()


def test_every_verb_reads_from_a_bucket(bucket: str, model: keras.Model) -> None:
    lamina.push("repo", bucket)
    code = (
        "import json, sys\n"
        "import lamina.cli\n"
        "codes = []\n"
        f"for verb in json.loads({json.dumps(json.dumps(READ_VERBS))}):\n"
        "    try:\n"
        f"        lamina.cli.app([part.replace('{{}}', {bucket!r}) for part in verb], standalone_mode=True)\n"
        "    except SystemExit as end:\n"
        "        codes.append(end.code)\n"
        "print(json.dumps(codes))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert json.loads(done.stdout.splitlines()[-1]) == [0] * len(READ_VERBS), done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert (Path("exported") / "model.keras").exists()
