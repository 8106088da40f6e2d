"""The ``filepath``, ``options`` and ``save_freq`` of a checkpoint: SavedModels, remote paths, every N epochs."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import wandb

import lamina
from lamina.errors import InvalidInputError
from lamina.keras import EveryNEpochs, ModelCheckpoint, WandbModelCheckpoint
from lamina.keras.saving import tf_saved_model
from lamina.keras.saving.commit import Commit
from lamina.keras.saving.filepath import target_of
from recorded_run import Recorder
from wandb_server import Server
from wandb_training import Remember, data, fit, same_weights, small_model

pytestmark = [pytest.mark.keras, pytest.mark.backend]

BACKEND = keras.backend.backend()
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
exports = pytest.mark.skipif(BACKEND == "torch" or not HAS_TENSORFLOW, reason="no SavedModels here")
remote = pytest.mark.skipif(not HAS_TENSORFLOW, reason="Keras writes to other machines through TensorFlow")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def offline(tmp_path: Path) -> Iterator[Any]:
    with wandb.init(mode="offline", dir=str(tmp_path), project="p") as run:
        yield run


class Predict(keras.callbacks.Callback):
    """Keeps the model's predictions at the end of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        inputs, _ = data(self.model)
        self.seen.append(np.asarray(keras.ops.convert_to_numpy(self.model(inputs))))


class With(keras.callbacks.Callback):
    """Logs the values that the test passes."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        self.name, self.value = name, value

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs[self.name] = self.value


def served(folder: str | os.PathLike[str]) -> np.ndarray:
    import tensorflow as tf

    inputs, _ = data(small_model())
    loaded = tf.saved_model.load(os.fspath(folder))  # keeps its variables alive
    return np.asarray(loaded.serve(inputs))


def serves(folder: str | os.PathLike[str], expected: np.ndarray) -> bool:
    return np.allclose(served(folder), expected, rtol=1e-5, atol=1e-6)


def files_of(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- The kind of file by its path.


@exports
@pytest.mark.parametrize(
    ("given", "path", "is_saved_model"),
    [
        ("m", "m", True),
        ("ck/m/", "ck/m", True),
        ("m.keras/", "m.keras", True),
        ("model-{epoch:02d}-{val_loss:.2f}", "model-{epoch:02d}-{val_loss:.2f}", True),
        ("run.v2/model", "run.v2/model", True),
        ("resnet-1.5", "resnet-1.5", True),
        ("model-{val_loss:.2f}.keras", "model-{val_loss:.2f}.keras", False),
        ("m.h5", "m.h5", False),
        (Path("ck") / "m", os.path.join("ck", "m"), True),
    ],
)
def test_the_end_of_the_template_decides(given: Any, path: str, is_saved_model: bool) -> None:
    found = target_of(given, weights_only=False, options=None, caller="C")
    assert (found.filepath, found.saved_model) == (path, is_saved_model)
    assert ModelCheckpoint(given).filepath == path


@pytest.mark.parametrize("given", ["m.txt", "m-{epoch}.pb", "m.tf"])
def test_an_extension_that_is_none_of_keras_is_keras_error(given: str) -> None:
    with pytest.raises(ValueError, match="must end in `.keras`"):
        ModelCheckpoint(given)


@pytest.mark.parametrize("given", ["", "/", 3, None])
def test_a_path_without_a_name_is_refused(given: Any) -> None:
    with pytest.raises(InvalidInputError, match="filepath"):
        ModelCheckpoint(given)


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ("w-{epoch:02d}-{loss:.2f}", "w-{epoch:02d}-{loss:.2f}.weights.h5"),
        ("w", "w.weights.h5"),
        ("ck/w/", "ck/w.weights.h5"),
    ],
)
def test_weights_without_an_extension_get_one(given: str, becomes: str) -> None:
    with pytest.warns(UserWarning, match="weights.h5"):
        checkpoint = ModelCheckpoint(given, save_weights_only=True)
    assert checkpoint.filepath == becomes
    fit(small_model(), checkpoint, epochs=1)
    assert [path.name.endswith(".weights.h5") for path in Path.cwd().rglob("*.h5")] == [True]


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends export")
def test_on_torch_a_saved_model_is_refused_at_construction() -> None:
    with pytest.raises(InvalidInputError, match="torch backend cannot"):
        ModelCheckpoint("m-{epoch}")


@pytest.mark.skipif(BACKEND != "jax", reason="TensorFlow is there, or not needed")
def test_on_jax_a_saved_model_needs_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InvalidInputError, match="needs TensorFlow, and that is not installed"):
        ModelCheckpoint("m-{epoch}")


# --- SavedModels.


@exports
def test_each_saved_model_serves_what_its_epoch_predicted() -> None:
    predict = Predict()
    commits: list[Any] = []
    checkpoint = ModelCheckpoint("ck/{epoch:02d}-{loss:.3f}", on_commit=commits.append)
    fit(small_model(), predict, checkpoint, epochs=2)
    assert [commit.path.name[:3] for commit in commits] == ["01-", "02-"]
    assert all(serves(commit.path, seen) for commit, seen in zip(commits, predict.seen, strict=True))
    assert sorted(path.name for path in Path("ck").iterdir()) == [commit.path.name for commit in commits]
    assert commits[0].bytes == sum(map(len, files_of(commits[0].path).values()))


@exports
def test_exporting_leaves_the_training_as_it_was() -> None:
    found = []
    for callbacks in ([], [ModelCheckpoint("ck/m")]):
        keras.utils.set_random_seed(3)
        model = small_model()
        fit(model, *callbacks, epochs=3)
        found.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


@exports
@pytest.mark.parametrize("atomic", [True, False])
def test_a_later_save_takes_the_place_of_the_one_before(atomic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise OSError

    if not atomic:  # the system cannot swap two directories at once
        monkeypatch.setattr(tf_saved_model, "ctypes", SimpleNamespace(CDLL=missing))
    predict = Predict()
    fit(small_model(), predict, ModelCheckpoint("ck/m/", save_freq=2), epochs=2)
    assert serves("ck/m", predict.seen[-1])
    assert [path.name for path in Path("ck").iterdir()] == ["m"]
    assert (Path("ck/m").stat().st_mode & 0o777) == (Path("ck").stat().st_mode & 0o777)


@exports
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_nothing_but_a_saved_model_is_replaced(kind: str) -> None:
    if kind == "directory":
        Path("results").mkdir()
        Path("results/saved_model.pb").touch()
        Path("results/thesis.tex").write_text("years")
    else:
        Path("results").write_text("years")
    said = r"thesis\.tex" if kind == "directory" else "is not one"
    with pytest.raises(InvalidInputError, match=said):
        ModelCheckpoint("results")
    with pytest.raises(InvalidInputError, match=said):
        fit(small_model(), With("empty", ""), ModelCheckpoint("resul{empty}ts"), epochs=1)
    assert (Path("results/thesis.tex") if kind == "directory" else Path("results")).read_text() == "years"
    assert [path.name for path in Path.cwd().iterdir()] == ["results"]


@exports
def test_a_failed_export_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()

    def half(path: str, **_: Any) -> None:
        Path(path).mkdir()
        Path(path, "saved_model.pb").touch()
        raise OSError("disk full")

    monkeypatch.setattr(model, "export", half)
    with pytest.raises(OSError, match="disk full"):
        fit(model, ModelCheckpoint("ck/m"), epochs=1)
    assert os.listdir("ck") == []


@exports
@pytest.mark.parametrize("keep_file", [True, False])
def test_a_repository_holds_its_files(keep_file: bool) -> None:
    predict = Predict()
    checkpoint = ModelCheckpoint("ck/m", repository="repo", keep_file=keep_file)
    fit(small_model(), predict, checkpoint, epochs=2)
    snapshot = checkpoint.last_snapshot
    assert snapshot is not None
    assert (snapshot.kind, snapshot.series, snapshot.epoch) == ("files", "ck/m", 1)
    lamina.export(snapshot, "out")
    assert serves("out", predict.seen[-1])
    assert Path("ck/m").exists() == keep_file
    if keep_file:
        assert files_of("out") == files_of("ck/m")
    with pytest.raises(InvalidInputError, match=r"tf\.saved_model\.load"):
        lamina.load_model(snapshot)


@exports
def test_a_saved_model_continues_no_training() -> None:
    with pytest.raises(InvalidInputError, match="for inference"):
        ModelCheckpoint("m", repository="repo", resume=True)


@exports
@pytest.mark.parametrize("place", ["local", "remote"])
def test_options_of_saved_models_are_honoured(place: str) -> None:
    import tensorflow as tf

    options = tf.saved_model.SaveOptions(experimental_io_device="/job:localhost", save_debug_info=True)
    predict = Predict()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        checkpoint = ModelCheckpoint("m" if place == "local" else "ram://bucket/options/m", options=options)
    fit(small_model(), predict, checkpoint, epochs=2)
    assert serves(checkpoint.filepath, predict.seen[-1])
    assert tf.io.gfile.exists(f"{checkpoint.filepath}/debug/saved_model_debug_info.pb")


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="they are TensorFlow's")
@pytest.mark.parametrize(
    ("filepath", "weights_only", "kind", "reason"),
    [
        ("m.weights.h5", True, "CheckpointOptions", "which Keras 3 does not write"),
        ("m.keras", False, "CheckpointOptions", "which Keras 3 does not write"),
        ("m", False, "CheckpointOptions", "which Keras 3 does not write"),
        ("m.keras", False, "SaveOptions", "the model is saved to one file"),
        ("m.weights.h5", True, "SaveOptions", "weights are saved to one file"),
    ],
)
def test_options_without_effect_are_told_why(
    offline: Any, filepath: str, weights_only: bool, kind: str, reason: str
) -> None:
    import tensorflow as tf

    options = tf.train.CheckpointOptions() if kind == "CheckpointOptions" else tf.saved_model.SaveOptions()
    with pytest.warns(UserWarning, match=f"{kind} has no effect.*{reason}"):
        WandbModelCheckpoint(filepath, save_weights_only=weights_only, options=options)


@exports
def test_sigterm_saves_beside_the_saved_models() -> None:
    checkpoint = ModelCheckpoint("ck/{epoch}-{val_loss:.2f}", save_on_preempt=True)
    assert checkpoint.target.preempted == os.path.join("ck", "preempted")


# --- SavedModels as artifacts.


@exports
def test_the_documented_example_for_local_paths_on_a_tpu(recorder: Recorder) -> None:
    import tensorflow as tf

    predict = Predict()
    run = recorder.start()
    checkpoint_options = tf.saved_model.SaveOptions(experimental_io_device="/job:localhost")
    fit(small_model(), predict, WandbModelCheckpoint(filepath="models/", options=checkpoint_options), epochs=2)
    versions = recorder.finish().artifacts_of("model")
    assert {version.name for version in versions} == {f"run_{run.id}_model"}
    assert [version.aliases for version in versions] == [{"epoch_0"}, {"epoch_1", "latest"}]
    assert "saved_model.pb" in versions[1].files
    assert serves("models", predict.seen[1])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the example counts a tf.data.Dataset")
def test_the_documented_example_for_every_n_epochs(recorder: Recorder) -> None:
    import tensorflow as tf

    model, n = small_model(), 2
    trainloader = tf.data.Dataset.from_tensor_slices(data(model)).batch(8)
    recorder.start()
    checkpoint = WandbModelCheckpoint(
        filepath="models/",
        monitor="loss",
        save_freq=int((trainloader.cardinality() * n).numpy()),
    )
    model.fit(trainloader, epochs=5, verbose=0, callbacks=[checkpoint])
    versions = recorder.finish().artifacts_of("model")
    assert [set(version.aliases) - {"best", "latest"} for version in versions] == [
        {"epoch_1_batch_1"},
        {"epoch_3_batch_1"},
    ]


@exports
def test_its_files_are_the_entries_that_the_stock_callback_makes(wandb_online: Server) -> None:
    predict = Predict()
    with wandb.init() as run:
        fit(small_model(), predict, WandbModelCheckpoint("ck/{epoch}", monitor="loss"), epochs=2)
        stock = wandb.Artifact("stock", "model")
        stock.add_dir("ck/2")
        run.log_artifact(stock)
    name = f"run_{run.id}_model"
    versions = wandb_online.store.artifacts(name)
    assert [version.aliases for version in versions][-1] == ["best", "epoch_1", "latest"]
    expected = {path: entry.digest for path, entry in stock.manifest.entries.items()}
    assert {path: entry.digest for path, entry in versions[1].entries.items()} == expected
    folder = wandb.Api().artifact(f"{name}:epoch_0").download("d")
    assert serves(folder, predict.seen[0])
    lamina.export(f"wandb:{name}:latest", "out")
    assert serves("out", predict.seen[1])
    with pytest.raises(InvalidInputError, match=r"tf\.saved_model\.load"):
        lamina.load_model(f"wandb:{name}:latest")
    with pytest.raises(InvalidInputError, match="no Keras weights"):
        lamina.restore(f"wandb:{name}:latest", small_model())


@exports
def test_its_snapshots_travel_as_packs(wandb_online: Server) -> None:
    predict = Predict()
    with wandb.init() as run:
        fit(small_model(), predict, WandbModelCheckpoint("ck/m/", monitor="loss", layout="packs"), epochs=2)
    lamina.export(f"wandb:run_{run.id}_model:epoch_0", "out")
    assert serves("out", predict.seen[0])
    assert Path("ck/.lamina").is_dir()


@exports
def test_offline_too(offline: Any) -> None:
    fit(small_model(), WandbModelCheckpoint("ck/m", monitor="loss"), epochs=2)
    staged = [path.name for path in (Path(offline.dir).parent / "lamina").rglob("*.pb")]
    assert sorted(staged) == ["fingerprint.pb"] * 2 + ["saved_model.pb"] * 2


# --- The documented example with the files of Keras 3.


@pytest.mark.parametrize("given", ["models/{epoch}.keras", "models/{epoch:02d}-{val_loss:.2f}.weights.h5"])
def test_the_documented_example_logs_a_version_per_epoch(recorder: Recorder, given: str) -> None:
    run = recorder.start(config={"bs": 12})
    model, remember = small_model(), Remember()
    x, y = data(model)
    checkpoint = WandbModelCheckpoint(given, save_weights_only=given.endswith(".h5"))
    fitted = model.fit(x, y, epochs=2, validation_data=(x, y), callbacks=[remember, checkpoint], verbose=0).history
    arrived = recorder.finish()
    versions = arrived.artifacts_of("model")
    assert {version.name for version in versions} == {f"run_{run.id}_model"}
    best = int(np.argmin(fitted["val_loss"]))
    aliases: list[set[str]] = [{"epoch_0"}, {"epoch_1", "latest"}]
    aliases[best].add("best")
    assert [version.aliases for version in versions] == aliases
    for epoch, version in enumerate(versions):
        ((name, file),) = version.files.items()
        assert name == given.format(epoch=epoch + 1, val_loss=fitted["val_loss"][epoch]).removeprefix("models/")
        Path(name).write_bytes(file.content or b"")
        saved = small_model()
        lamina.restore(name, saved)
        assert same_weights(saved, remember.weights[epoch])
    assert arrived.config["bs"] == 12
    assert "keras_model_checkpoint" in arrived.features


# --- Remote paths; ram:// is a file system of TensorFlow, like gs://.


@remote
@pytest.mark.parametrize("name", ["m.weights.h5", "m.keras", "m.h5"])
def test_files_are_written_through_keras(name: str) -> None:
    import tensorflow as tf

    weights_only = name.endswith(".weights.h5")
    filepath = f"ram://bucket/{BACKEND}/files/{{epoch}}-{name}"
    remember = Remember()
    commits: list[Commit] = []
    checkpoint = ModelCheckpoint(filepath, save_weights_only=weights_only, repository="repo", on_commit=commits.append)
    fit(small_model(), remember, checkpoint, epochs=2)
    assert [commit.path for commit in commits] == [filepath.format(epoch=epoch) for epoch in (1, 2)]
    for epoch in (1, 2):
        tf.io.gfile.copy(filepath.format(epoch=epoch), f"{epoch}-{name}")
        if weights_only:
            model = small_model()
            model.load_weights(f"{epoch}-{name}")
        else:
            model = keras.models.load_model(f"{epoch}-{name}", compile=False)
        assert same_weights(model, remember.weights[epoch - 1])
    assert len(lamina.open("repo").snapshots()) == 2
    assert not list(Path.cwd().glob(".lamina-*"))


@exports
def test_saved_models_are_written_through_keras() -> None:
    predict = Predict()
    fit(small_model(), predict, ModelCheckpoint(f"ram://bucket/{BACKEND}/m/"), epochs=2)
    assert serves(f"ram://bucket/{BACKEND}/m", predict.seen[-1])
    import tensorflow as tf

    with tf.io.gfile.GFile(f"ram://bucket/{BACKEND}/m/thesis.tex", "w") as file:
        file.write("years")
    with pytest.raises(InvalidInputError, match=r"thesis\.tex"):
        fit(small_model(), ModelCheckpoint(f"ram://bucket/{BACKEND}/m/"), epochs=1)


@remote
def test_an_artifact_of_a_remote_file_is_uploaded(wandb_online: Server) -> None:
    remember = Remember()
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint(f"ram://bucket/{BACKEND}/w/{{epoch}}.keras", monitor="loss")
        fit(small_model(), remember, checkpoint, epochs=2)
    model = lamina.load_model(f"wandb:run_{run.id}_model:latest")
    assert same_weights(model, remember.weights[1])
    assert [*wandb_online.store.artifacts(f"run_{run.id}_model")[1].entries] == ["2.keras"]


@remote
def test_a_repository_is_on_this_machine(offline: Any) -> None:
    with pytest.raises(InvalidInputError, match="repository= to be a directory on this machine"):
        ModelCheckpoint("m.keras", repository="gs://bucket/repo")
    with pytest.raises(InvalidInputError, match="pass repository=DIRECTORY"):
        WandbModelCheckpoint("s3://bucket/m.keras", layout="packs")
    WandbModelCheckpoint("s3://bucket/m.keras", layout="packs", repository="repo")


def test_remote_paths_need_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InvalidInputError, match="needs TensorFlow, which is not installed"):
        ModelCheckpoint("gs://bucket/m.keras")


# --- Frequency.


def test_every_n_epochs() -> None:
    commits: list[Any] = []
    checkpoint = ModelCheckpoint("{epoch}.keras", save_freq=EveryNEpochs(3), on_commit=commits.append)
    fit(small_model(), checkpoint, epochs=7)
    assert [commit.epoch for commit in commits] == [2, 5]
    assert sorted(path.name for path in Path.cwd().glob("*.keras")) == ["3.keras", "6.keras"]
    fit(small_model(), checkpoint, epochs=9, initial_epoch=7)
    assert [commit.epoch for commit in commits] == [2, 5, 8]


def test_between_those_epochs_nothing_is_decided() -> None:
    checkpoint = ModelCheckpoint("m.keras", save_best_only=True, save_freq=EveryNEpochs(2))
    checkpoint.set_model(small_model())
    checkpoint.on_train_begin()
    best, first = [], math.inf if keras.__version__ == "3.10.0" else None
    for epoch, value in enumerate([1.0, 3.0, 0.5, 2.0]):
        checkpoint.on_epoch_begin(epoch)
        checkpoint.on_epoch_end(epoch, {"val_loss": value})
        best.append(checkpoint.best)
    checkpoint.on_train_end()
    assert best == [first, 3.0, 3.0, 2.0]


def test_the_documented_computation_of_batches() -> None:
    rows, batch_size, every = 16, 8, 2
    save_freq = int(every * math.ceil(rows / batch_size))
    commits: list[Any] = []
    fit(small_model(), ModelCheckpoint("{epoch}.keras", save_freq=save_freq, on_commit=commits.append), epochs=5)
    assert [commit.epoch + 1 for commit in commits] == [2, 4]


def test_every_n_epochs_is_epoch_to_keras_and_survives_a_copy() -> None:
    for copied in (copy.deepcopy(EveryNEpochs(3)), pickle.loads(pickle.dumps(EveryNEpochs(3)))):
        assert copied == "epoch"
        assert repr(copied) == "EveryNEpochs(3)"
    assert lamina.keras.EveryNEpochs is EveryNEpochs


@pytest.mark.parametrize("n", [0, -1, 1.5, "3", True, None])
def test_a_wrong_number_of_epochs_is_refused(n: Any) -> None:
    with pytest.raises(InvalidInputError, match="`n` must be an int of 1 or more"):
        EveryNEpochs(n)


@pytest.mark.parametrize(
    ("unknown", "instead"),
    [
        ("period", r"save_freq=lamina\.keras\.EveryNEpochs\(n\)"),
        ("save_format", "the extension of filepath decides"),
        ("load_weights_on_restart", "resume=True"),
        ("colour", "has no argument 'colour'$"),
    ],
)
def test_unknown_arguments_name_what_replaces_them(offline: Any, unknown: str, instead: str) -> None:
    for kind in (ModelCheckpoint, WandbModelCheckpoint):
        with pytest.raises(TypeError, match=f"{kind.__name__} has no argument .*{instead}|{instead}"):
            kind("m.keras", **{unknown: 2})


# --- Processes of a distributed training.


def further_process(monkeypatch: pytest.MonkeyPatch) -> None:
    if BACKEND == "jax":
        import jax

        monkeypatch.setattr(jax, "process_index", lambda: 1)
    elif BACKEND == "torch":
        monkeypatch.setenv("RANK", "1")
    else:
        config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))


@pytest.mark.parametrize("layout", ["file", "packs"])
def test_a_further_process_needs_no_run(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    further_process(monkeypatch)
    assert wandb.run is None
    model = small_model()
    fit(model, WandbModelCheckpoint("ck/m.keras", monitor="loss", layout=layout, log_stats=True), epochs=2)
    assert not Path("wandb").exists()
    with pytest.raises(InvalidInputError, match="needs `name`"):
        WandbModelCheckpoint("ck/m.keras", layout="packs", resume=True)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "0"},
        {"TF_CONFIG": "nonsense"},
        {"TF_CONFIG": json.dumps({"cluster": {"chief": ["a"]}, "task": {"type": "chief", "index": 0}})},
        {"TF_CONFIG": json.dumps({"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}})},
    ],
)
def test_the_first_process_needs_one(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(wandb.Error, match=r"wandb\.init\(\)"):
        WandbModelCheckpoint("m.keras")


# --- Wrapped callbacks, and models of tf_keras.


class Around(keras.callbacks.Callback):
    """Forwards all hooks, as wrappers do."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def set_params(self, params: Any) -> None:
        self.inner.set_params(params)

    def set_model(self, model: Any) -> None:
        self.inner.set_model(model)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            return getattr(self.inner, name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("save_freq", ["epoch", 2])
def test_it_works_inside_another_callback(offline: Any, save_freq: Any) -> None:
    remember = Remember()
    checkpoint = WandbModelCheckpoint("m.keras", monitor="loss", save_freq=save_freq)
    fit(small_model(), remember, Around(checkpoint), epochs=2)
    assert checkpoint.params["epochs"] == 2
    assert same_weights(keras.models.load_model("m.keras"), remember.weights[-1])


def test_models_of_tf_keras_are_refused() -> None:
    class Model:
        """The parts of a tf_keras model that a callback sees before `fit`."""

    Model.__module__ = "tf_keras.src.engine.training"
    with pytest.raises(InvalidInputError, match="TF_USE_LEGACY_KERAS"):
        ModelCheckpoint("m.keras").set_model(type("Mine", (Model,), {})())
