"""Models with custom saving or training, and unusual uses of the callback."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from keras_training import fit_on
from lamina.errors import InvalidInputError
from lamina.keras import ModelCheckpoint, private
from lamina.keras.capture.model_identity import visits
from lamina.keras.capture.planned_file import PlannedFile
from lamina.keras.restoring.skip_init import skip_random_init
from stock_pairs import assert_same_folders, pair

pytestmark = [pytest.mark.keras, pytest.mark.backend, pytest.mark.filterwarnings("ignore")]

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = X[:, :2]
_register = keras.saving.register_keras_serializable(package="test_custom_models")


fit = fit_on(X, Y)


def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def told(caught: Any) -> list[str]:
    return [str(warning.message) for warning in caught]


@_register
class Encoder(keras.Model):
    """A model that saves only a part of itself, and a text file beside the weights."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
        self.head = layers.Dense(2)

    def call(self, x: Any) -> Any:
        return self.head(self.body(x))

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        self.body.save(filepath, overwrite=overwrite, **kwargs)

    def save_weights(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        self.body.save_weights(filepath, overwrite=overwrite)
        Path(str(filepath) + ".txt").write_text("the body alone")


def encoder() -> keras.Model:
    model = Encoder()
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_model_that_saves_itself_is_asked_to(suffix: str, tmp_path: Path) -> None:
    ours, stock = pair(tmp_path, suffix, save_freq="epoch", repository=tmp_path / "r")
    fit(encoder(), ours, stock)
    assert_same_folders(tmp_path, 2)
    last = ["2.keras"] if suffix == ".keras" else ["2.weights.h5", "2.weights.h5.txt"]
    assert lamina.open(tmp_path / "r").snapshots()[-1].files == last


@_register
class TwoOptimizers(keras.Model):
    """A model with a second optimizer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.out = layers.Dense(2)
        self.side = keras.optimizers.Adam()

    def call(self, x: Any) -> Any:
        return self.out(x)


def two_optimizers() -> TwoOptimizers:
    model = TwoOptimizers()
    model.compile("sgd", "mse")
    model(X)
    return model


class Exchanges(keras.callbacks.Callback):
    """Builds the second optimizer during training, and then replaces it."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.model.side.build(self.model.trainable_variables)
        if epoch == 2:
            self.model.side = keras.optimizers.Adam(0.5)
            self.model.side.build(self.model.trainable_variables)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_an_optimizer_that_is_built_late_is_saved(suffix: str, tmp_path: Path) -> None:
    fit(two_optimizers(), Exchanges(), *pair(tmp_path, suffix, save_freq="epoch"), epochs=4)
    assert_same_folders(tmp_path, 4)


def test_an_optimizer_that_the_model_builds_itself_does_not_keep_it_from_going_on(tmp_path: Path) -> None:
    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / "m.keras", "loss", repository=tmp_path / "r", resume=True)

    first = two_optimizers()
    first.side.build(first.trainable_variables)
    fit(first, checkpoint())
    unbuilt = two_optimizers()
    with pytest.warns(UserWarning, match=r"the model's 'side' has 2 variables, the saved one 6.*model\.side\.build"):
        assert fit(unbuilt, checkpoint(), epochs=2).epoch == []
    np.testing.assert_array_equal(unbuilt.get_weights()[0], first.get_weights()[0])
    with pytest.raises(InvalidInputError, match="side"):
        lamina.restore(tmp_path / "r", two_optimizers(), optimizer=True)
    built = two_optimizers()
    built.side.build(built.trainable_variables)
    first.side.variables[0].assign(7)
    lamina.save(first, tmp_path / "other")
    lamina.restore(tmp_path / "other", built, optimizer=False)
    assert int(built.side.iterations) == 0
    lamina.restore(tmp_path / "other", built, optimizer=True)
    assert int(built.side.iterations) == 7


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_several_that_resume_the_newest_state_counts(order: tuple[int, int], tmp_path: Path) -> None:
    class Follows(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["x"] = [2.0, 1.0, 3.0, 1.5, 0.5][epoch]

    def callbacks() -> list[ModelCheckpoint]:
        both: dict[str, Any] = {"monitor": "x", "mode": "min", "repository": tmp_path / "r", "resume": True}
        return [ModelCheckpoint(tmp_path / f"{best}.keras", save_best_only=best, **both) for best in (False, True)]

    first = network()
    fit(first, Follows(), *callbacks(), epochs=3)
    second, again = network(), callbacks()
    for variable in second.variables:
        variable.assign(variable * 0)
    assert fit(second, Follows(), *[again[i] for i in order], epochs=3).epoch == []
    np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])
    assert again[1].best == 1.0


def test_a_step_is_saved_on_sigterm_though_an_earlier_fit_saved_one_of_its_number(tmp_path: Path) -> None:
    class Ends(keras.callbacks.Callback):
        def on_test_begin(self, logs: Any = None) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    try:
        callback = ModelCheckpoint(tmp_path / "m.keras", repository=tmp_path / "r", save_on_preempt=True)
        more = {"validation_data": (X, Y), "epochs": 1}
        model = network()
        fit(model, callback, **more)
        callback.save_best_only, callback.best = True, -1.0
        fit(model, callback, Ends(), **more)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended
    assert len(lamina.open(tmp_path / "r").snapshots()) == 2


def test_a_tracked_callback_that_fit_does_not_know_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"`track` must be a list of Keras callbacks. Received: \['es'\]"):
        ModelCheckpoint(tmp_path / "m.keras", repository=tmp_path / "r", track=["es"])
    for epochs in (1, 2):
        track = [keras.callbacks.ReduceLROnPlateau("loss")]
        callback = ModelCheckpoint(tmp_path / "m.keras", "loss", repository=tmp_path / "r", resume=True, track=track)
        with pytest.warns(UserWarning, match="`track` lists ReduceLROnPlateau, which was not passed to fit"):
            assert fit(network(), callback, epochs=epochs).epoch == [epochs - 1]


def test_a_first_run_tells_that_a_later_one_could_not_resume(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Dense(2)])
    model.compile("sgd", "mse")
    callback = ModelCheckpoint(tmp_path / "m.keras", "loss", repository=tmp_path / "r", resume=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, callback)
    expected = keras.backend.backend() == "tensorflow"  # other backends build it before training
    assert any("a later run cannot resume" in text for text in told(caught)) == expected


def test_files_go_where_they_were_meant_though_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, write = threading.Event(), PlannedFile.write

    def late(content: PlannedFile, path: str) -> None:
        assert gone.wait(30)
        write(content, path)

    class Goes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            os.chdir(tmp_path / "elsewhere")
            gone.set()

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(PlannedFile, "write", late)
    monkeypatch.chdir(tmp_path)
    fit(network(), ModelCheckpoint("m.keras", "loss", repository="r"), Goes(), epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "m.keras", "r"]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_who_overrides_a_decision_has_the_whole_model(tmp_path: Path) -> None:
    class Mine(ModelCheckpoint):
        def _should_save_model(self, *args: Any, **kwargs: Any) -> bool:
            assert isinstance(self.model, keras.Model)
            assert self.model(X).shape == (16, 2)
            self.model.stop_training = True
            return True

    assert fit(network(), Mine(tmp_path / "m.keras"), epochs=3).epoch == [0]
    assert keras.models.load_model(tmp_path / "m.keras").built


def test_waiting_for_a_save_where_it_is_reported_is_refused(tmp_path: Path) -> None:
    callback = ModelCheckpoint(tmp_path / "m.keras", "loss", on_commit=lambda commit: callback.wait(60) and None)
    with pytest.raises(InvalidInputError, match="inside on_commit"):
        fit(network(), callback)


@pytest.mark.skipif(keras.config.backend() == "torch", reason="Keras cannot train such a layer there")
def test_stateful_layers_remember_when_a_run_goes_on(tmp_path: Path) -> None:
    def run(epochs: int, *callbacks: Any) -> keras.Model:
        keras.backend.clear_session()
        keras.utils.set_random_seed(3)
        middle = [layers.Reshape((2, 2)), layers.LSTM(3, stateful=True), layers.Dense(2)]
        model = keras.Sequential([keras.Input(batch_shape=(8, 4)), *middle])
        model.compile("sgd", "mse", jit_compile=False)
        fit(model, *callbacks, epochs=epochs, shuffle=False)
        return model

    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / "m.keras", "loss", repository=tmp_path / "r", resume=True)

    straight = run(4)
    run(2, checkpoint())
    resumed = run(4, checkpoint())
    assert resumed.layers[1].states
    for one, other in zip([*straight.weights, *straight.layers[1].states], resumed.weights, strict=False):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


class Gives(keras.callbacks.Callback):
    """Sets the metrics ``x`` and ``y`` of each epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs |= {"x": [3.0, 2.0, 2.5, 2.4][epoch], "y": [0.5, 0.6, 0.4, 0.3][epoch]}


def test_a_resumed_run_knows_its_best_snapshot(tmp_path: Path) -> None:
    def checkpoint(**arguments: Any) -> ModelCheckpoint:
        arguments = {"monitor": "x", "mode": "min"} | arguments
        return ModelCheckpoint(tmp_path / "m.keras", repository=tmp_path / "r", resume=True, **arguments)

    fit(network(), Gives(), checkpoint(), epochs=2)
    again = checkpoint(save_best_only=True)
    fit(network(), Gives(), again, epochs=4)
    assert again.best_snapshot is not None
    assert again.best_snapshot.epoch == 1
    assert again.best == 2.0
    assert len(lamina.open(tmp_path / "r").snapshots()) == 2
    other = checkpoint(save_best_only=True, monitor="y", mode="max")
    fit(network(), Gives(), other, epochs=4)  # the best x is higher than any y
    assert other.best == 0.4


@pytest.mark.parametrize(
    ("replaced", "where", "name"),
    [
        (visits, private.saving_lib, "_save_state"),
        (skip_random_init, keras.Variable, "_initialize_with_initializer"),
    ],
)
def test_two_threads_leave_keras_as_it_was(replaced: Any, where: Any, name: str) -> None:
    """A slow save of one callback neither blocks the other nor loses its files."""
    before, inside, leave = vars(where).get(name), threading.Event(), threading.Event()

    def other() -> None:
        with replaced():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with replaced():
        thread.start()
        assert inside.wait(30)
    assert vars(where).get(name) is not before
    leave.set()
    thread.join(30)
    assert vars(where).get(name) is before


def test_what_another_thread_saves_is_not_noted(tmp_path: Path) -> None:
    other = network()
    with visits() as visited:
        thread = threading.Thread(target=other.save_weights, args=(tmp_path / "m.weights.h5",))
        thread.start()
        thread.join()
    assert visited == []


def test_a_file_may_be_taken_away_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = PlannedFile.copy_to

    def taken(content: PlannedFile, path: Path) -> None:
        write(content, path)
        path.rename(path.with_suffix(".taken"))

    monkeypatch.setattr(PlannedFile, "copy_to", taken)
    fit(network(), ModelCheckpoint(tmp_path / "m.keras", "loss"))
    assert [path.name for path in tmp_path.iterdir()] == ["m.taken"]
