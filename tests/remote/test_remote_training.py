"""`remote=`: what training commits goes to a bucket, and trouble with the bucket never ends training."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import lamina
from bucket_server import Asked, Forward, Proxy
from lamina.errors import InvalidInputError
from lamina.keras import ModelCheckpoint, WandbModelCheckpoint
from lamina.remote import journal

X, Y = np.zeros((8, 4), np.float32), np.zeros((8, 1), np.float32)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def build() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(64), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")
    return model


def fit(checkpoint: keras.callbacks.Callback, epochs: int = 3) -> None:
    build().fit(X, Y + 1, epochs=epochs, verbose=0, callbacks=[checkpoint])


def down(asked: Asked, forward: Forward) -> tuple[int, dict[str, str], bytes]:
    return 503, {}, b""


def ids(place: str) -> list[str]:
    return [snapshot.id for snapshot in lamina.open(place).snapshots()]


def test_the_bucket_has_what_the_repository_has(bucket: str, proxy: Proxy) -> None:
    checkpoint = ModelCheckpoint("m.keras", monitor="loss", repository="repo", remote=bucket)
    fit(checkpoint)
    assert ids(bucket) == ids("repo")
    assert len(ids("repo")) == 3
    assert lamina.open(bucket).verify(full=True).problems == []
    assert journal.waiting(lamina.open("repo")) == []
    restored = build()
    assert lamina.restore(f"{bucket}@best", restored).best
    assert lamina.load_model(bucket).count_params() == restored.count_params()


def test_each_version_takes_as_many_requests(bucket: str, proxy: Proxy) -> None:
    requests = []

    def noted(commit: object) -> None:
        checkpoint.wait(uploads=True)
        requests.append(len(proxy.asked))

    checkpoint = ModelCheckpoint("m.keras", monitor="loss", repository="repo", remote=bucket)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: noted(None))
    build().fit(X, Y + 1, epochs=5, verbose=0, callbacks=[checkpoint, callback])
    each = [after - before for before, after in itertools.pairwise(requests[1:])]
    assert max(each) <= 5
    assert checkpoint.wait(uploads=True)


def test_training_goes_on_without_the_bucket_and_push_sends_the_rest_once(
    bucket: str, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.fault = down
    keep = lamina.Keep(last=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(ModelCheckpoint("m.keras", monitor="loss", repository="repo", remote=bucket, keep=keep))
    (warning,) = [str(one.message) for one in caught if "did not reach" in str(one.message)]
    assert bucket in warning
    line = (
        f"3 snapshots did not reach {bucket}; nothing is lost, and this sends the rest: lamina push {Path.cwd()}/repo"
    )
    assert line in capsys.readouterr().out
    assert len(ids("repo")) == 3, "retention leaves alone what waits"

    proxy.fault = None
    told = [
        subprocess.run([sys.executable, "-m", "lamina", "push", "repo"], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert told[0].stdout == f"{bucket} has all that waited for it: 3 snapshots sent\n"
    assert told[1].stdout.startswith("nothing to upload in repo")
    assert ids(bucket) == ids("repo")
    lamina.open("repo").prune(keep)
    assert len(ids("repo")) == 1


def test_retention_goes_on_where_the_bucket_has_it(bucket: str, proxy: Proxy) -> None:
    fit(ModelCheckpoint("m.keras", monitor="loss", repository="repo", remote=bucket, keep=lamina.Keep(last=1)))
    assert len(ids(bucket)) == 3
    assert ids("repo") == ids(bucket)[-1:]


def test_what_an_earlier_training_left_goes_with_the_next(bucket: str, proxy: Proxy) -> None:
    proxy.fault = down
    with pytest.warns(UserWarning, match="did not reach"):
        fit(ModelCheckpoint("m.keras", monitor="loss", repository="repo", remote=bucket), epochs=1)
    proxy.fault = None
    fit(ModelCheckpoint("m.keras", monitor="loss", repository="repo", remote=bucket), epochs=1)
    assert ids(bucket) == ids("repo")
    assert len(ids(bucket)) == 2


def test_training_does_not_wait_for_the_bucket(bucket: str, proxy: Proxy) -> None:
    """The store answers nothing before the last epoch has ended."""
    ended = threading.Event()

    def slow(asked: Asked, forward: Forward) -> tuple[int, dict[str, str], bytes]:
        assert ended.wait(60)
        return forward()

    proxy.fault = slow
    last = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ended.set() if epoch == 2 else None)
    checkpoint = ModelCheckpoint("m.keras", monitor="loss", repository="repo", remote=bucket)
    build().fit(X, Y + 1, epochs=3, verbose=0, callbacks=[checkpoint, last])
    assert ids(bucket) == ids("repo")


def test_checkpointer(bucket: str, proxy: Proxy) -> None:
    with lamina.Checkpointer(build(), "repo", remote=bucket) as checkpointer:
        checkpointer.save(epoch=0)
        checkpointer.save(epoch=1)
    assert ids(bucket) == ids("repo")
    assert len(ids(bucket)) == 2


def test_the_callback_for_wandb(bucket: str, proxy: Proxy) -> None:
    import wandb

    with wandb.init(mode="disabled"):
        fit(WandbModelCheckpoint("m.keras", monitor="loss", layout="packs", repository="repo", remote=bucket))
    assert ids(bucket) == ids("repo")
    assert len(ids(bucket)) == 3


def test_a_copy_of_the_callback_sends_too(bucket: str, proxy: Proxy) -> None:
    checkpoint = ModelCheckpoint("m.keras", monitor="loss", repository="repo", remote=bucket)
    fit(pickle.loads(pickle.dumps(copy.deepcopy(checkpoint))), epochs=1)
    assert len(ids(bucket)) == 1


@pytest.mark.parametrize("remote", ["bucket/x", "hdfs://b/x", Path("s3://b/x"), 5])
def test_a_remote_that_is_none(remote: object) -> None:
    with pytest.raises(InvalidInputError, match="expected the address of a bucket"):
        ModelCheckpoint("m.keras", repository="repo", remote=remote)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="expected the address of a bucket"):
        lamina.Checkpointer(build(), "repo", remote=remote)  # type: ignore[arg-type]
    assert not Path("repo").exists()


def test_a_remote_needs_a_repository() -> None:
    with pytest.raises(InvalidInputError, match="remote needs a repository"):
        ModelCheckpoint("m.keras", remote="s3://b/x")
