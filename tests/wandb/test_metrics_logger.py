"""WandbMetricsLogger: what arrives in the history, at which steps, with which learning rate."""

import keras
import numpy as np
import pytest
import wandb

from lamina.errors import InvalidInputError
from lamina.keras import WandbMetricsLogger
from recorded_run import Recorder

pytestmark = [pytest.mark.keras, pytest.mark.wandb, pytest.mark.backend]
BACKEND = keras.backend.backend()


def make_model(rate: object = 0.1, **compile_options: object) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"], **compile_options)
    return model


def data(rows: int = 32) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(rows, 4)).astype("float32"), generator.normal(size=(rows, 1)).astype("float32")


def test_the_documented_example_logs_every_epoch(recorder: Recorder) -> None:
    recorder.start(config={"bs": 12})
    x, y = data()
    model = make_model()
    fitted = model.fit(x, y, epochs=3, validation_data=(x, y), callbacks=[WandbMetricsLogger()], verbose=0).history
    arrived = recorder.finish()

    assert arrived.column("epoch/epoch") == [0, 1, 2]
    for name in ("loss", "mae", "val_loss", "val_mae"):
        assert arrived.column(f"epoch/{name}") == pytest.approx(fitted[name])
    assert arrived.column("epoch/learning_rate") == pytest.approx([0.1] * 3)
    assert arrived.axis("epoch/loss") == arrived.axis("epoch/val_mae") == "epoch/epoch"
    assert arrived.axis("batch/loss") is None
    assert not [key for row in arrived.history for key in row if key.startswith("batch/")]
    assert arrived.config["bs"] == 12
    assert arrived.summary["epoch/loss"] == pytest.approx(fitted["loss"][-1])
    assert "keras_metrics_logger" in arrived.features


def test_batch_rows_have_their_own_axis_and_epochs_are_logged_too(recorder: Recorder) -> None:
    recorder.start()
    x, y = data(32)
    make_model().fit(x, y, batch_size=8, epochs=2, callbacks=[WandbMetricsLogger(log_freq="batch")], verbose=0)
    arrived = recorder.finish()

    assert arrived.column("batch/batch_step") == list(range(8))
    assert len(arrived.column("batch/loss")) == len(arrived.column("batch/mae")) == 8
    assert arrived.column("batch/learning_rate") == pytest.approx([0.1] * 8)
    assert arrived.column("epoch/epoch") == [0, 1]
    assert arrived.axis("batch/loss") == arrived.axis("batch/learning_rate") == "batch/batch_step"
    assert arrived.axis("epoch/loss") == "epoch/epoch"


@pytest.mark.parametrize(
    ("rows", "log_freq", "per_execution", "expected"),
    [
        # the stock callback reports 0, 3, 6, 9
        (32, 3, 1, [0, 3, 4, 7]),
        # the last batch of an epoch is partial: still one step
        (27, 2, 1, [0, 2, 4, 6]),
        (27, 100, 1, [0, 4]),
        # the stock callback reports 0, 1
        (32, 1, 2, [1, 3, 5, 7]),
        # the stock callback never logs: no execution ends at an even batch
        (32, 2, 2, [1, 3, 5, 7]),
        # the third execution of five batches has one batch
        (40, 4, 2, [1, 4, 6, 9]),
    ],
)
def test_batch_step_is_the_step_that_was_taken(
    recorder: Recorder, rows: int, log_freq: int, per_execution: int, expected: list[int]
) -> None:
    if per_execution > 1 and BACKEND == "torch":
        pytest.skip("Keras has no steps_per_execution on torch")
    recorder.start()
    x, y = data(rows)
    model = make_model(steps_per_execution=per_execution)
    model.fit(x, y, batch_size=8, epochs=2, callbacks=[WandbMetricsLogger(log_freq)], verbose=0)
    assert recorder.finish().column("batch/batch_step") == expected


def test_resumed_training_goes_on_from_the_initial_step(recorder: Recorder) -> None:
    recorder.start()
    x, y = data(32)
    logger = WandbMetricsLogger(log_freq=2, initial_global_step=8)
    model = make_model()
    model.fit(x, y, batch_size=8, initial_epoch=2, epochs=3, callbacks=[logger], verbose=0)
    model.fit(x, y, batch_size=8, initial_epoch=3, epochs=4, callbacks=[logger], verbose=0)
    arrived = recorder.finish()
    assert arrived.column("batch/batch_step") == [8, 10, 12, 14]
    assert arrived.column("epoch/epoch") == [2, 3]
    assert logger.global_step == 16


def test_an_interrupted_epoch_leaves_the_steps_right(recorder: Recorder) -> None:
    recorder.start()
    x, y = data(32)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if batch == 1:
                raise KeyboardInterrupt

    logger = WandbMetricsLogger(log_freq="batch")
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=8, callbacks=[logger, Stop()], verbose=0)
    model.fit(x, y, batch_size=8, callbacks=[logger], verbose=0)
    assert recorder.finish().column("batch/batch_step") == [0, 1, 2, 3, 4, 5]


class CallableRate:
    def __call__(self) -> float:
        return 0.25


@pytest.mark.parametrize("log_freq", ["epoch", "batch"])
def test_the_rate_of_a_schedule_is_logged(recorder: Recorder, log_freq: str) -> None:
    """On JAX the stock callback ends training here: an array without ``.numpy``."""
    recorder.start()
    x, y = data(32)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2, 5], [0.4, 0.2, 0.1])
    make_model(schedule).fit(x, y, batch_size=8, epochs=2, callbacks=[WandbMetricsLogger(log_freq)], verbose=0)
    arrived = recorder.finish()
    # after step n the optimizer is at iteration n
    assert arrived.column("epoch/learning_rate") == pytest.approx([0.2, 0.1])
    if log_freq == "batch":
        expected = [float(schedule(step)) for step in range(1, 9)]
        assert arrived.column("batch/learning_rate") == pytest.approx(expected)


def test_the_rate_of_a_callable_is_logged(recorder: Recorder) -> None:
    recorder.start()
    x, y = data()
    make_model(CallableRate()).fit(x, y, callbacks=[WandbMetricsLogger("batch")], verbose=0)
    arrived = recorder.finish()
    assert arrived.column("batch/learning_rate") == arrived.column("epoch/learning_rate") == [0.25]


def test_the_rate_of_scheduler_callbacks_is_logged(recorder: Recorder) -> None:
    recorder.start()
    x, y = data()
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1))
    make_model().fit(x, y, batch_size=16, epochs=2, callbacks=[scheduler, WandbMetricsLogger("batch")], verbose=0)
    arrived = recorder.finish()
    assert arrived.column("epoch/learning_rate") == pytest.approx([0.5, 0.25])
    assert arrived.column("batch/learning_rate") == pytest.approx([0.5, 0.5, 0.25, 0.25])


def test_the_rate_under_loss_scaling_is_logged(recorder: Recorder) -> None:
    recorder.start()
    x, y = data()
    model = make_model()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.4, 0.2])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule)), "mse")
    model.fit(x, y, batch_size=16, epochs=2, callbacks=[WandbMetricsLogger("batch")], verbose=0)
    rates = recorder.finish().column("batch/learning_rate")
    # steps whose gradients overflow do not count
    assert len(rates) == 4
    assert all(rate == pytest.approx(0.4) or rate == pytest.approx(0.2) for rate in rates)


def test_logging_leaves_the_training_as_it_was(recorder: Recorder) -> None:
    recorder.start()
    x, y = data()
    weights = []
    for callbacks in ([], [WandbMetricsLogger("batch")]):
        keras.utils.set_random_seed(7)
        schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
        model = make_model(schedule)
        model.fit(x, y, batch_size=4, epochs=2, callbacks=callbacks, verbose=0, shuffle=False)
        weights.append(model.get_weights())
    for plain, logged in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, logged)


def test_hooks_can_be_overridden(recorder: Recorder) -> None:
    recorder.start()

    class Doubled(WandbMetricsLogger):
        def on_train_begin(self, logs: object = None) -> None:
            super().on_train_begin(logs)
            wandb.log({"began": 1})

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            super().on_epoch_end(epoch, {"twice": 2 * (logs or {})["loss"]})

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            super().on_train_batch_end(batch, {"seen": batch})

    x, y = data()
    history = make_model().fit(x, y, batch_size=16, callbacks=[Doubled("batch")], verbose=0).history
    arrived = recorder.finish()
    assert arrived.column("began") == [1]
    assert arrived.column("epoch/twice") == pytest.approx([2 * history["loss"][0]])
    assert arrived.column("batch/seen") == [0, 1]


def test_steps_are_right_where_a_subclass_keeps_epochs_to_itself(recorder: Recorder) -> None:
    recorder.start()

    class Batches(WandbMetricsLogger):
        def on_epoch_end(self, epoch: int, logs: object = None) -> None: ...

    x, y = data()
    make_model().fit(x, y, batch_size=16, epochs=2, callbacks=[Batches("batch")], verbose=0)
    arrived = recorder.finish()
    assert arrived.column("batch/batch_step") == [0, 1, 2, 3]
    assert arrived.column("epoch/epoch") == []


def test_a_subclass_with_its_own_batch_hook_runs_in_the_training_thread(recorder: Recorder) -> None:
    class Own(WandbMetricsLogger):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None: ...

    recorder.start()
    assert WandbMetricsLogger().async_safe
    assert not WandbMetricsLogger("batch").async_safe
    assert not Own().async_safe


def test_a_second_run_gets_its_axes(recorder: Recorder) -> None:
    recorder.start()
    logger = WandbMetricsLogger()
    recorder.finish()
    recorder.start()
    x, y = data()
    make_model().fit(x, y, callbacks=[logger], verbose=0)
    arrived = recorder.finish()
    assert arrived.axis("epoch/loss") == "epoch/epoch"
    assert arrived.column("epoch/epoch") == [0]


def test_the_logger_counts_steps_when_only_epochs_are_logged(recorder: Recorder) -> None:
    recorder.start()
    logger = WandbMetricsLogger()
    x, y = data(27)
    make_model().fit(x, y, batch_size=8, epochs=2, callbacks=[logger], verbose=0)
    assert logger.global_step == 8


@pytest.mark.parametrize("log_freq", ["step", 0, -1, 1.5, True, None, [1]])
def test_a_wrong_frequency_is_refused(recorder: Recorder, log_freq: object) -> None:
    recorder.start()
    with pytest.raises(InvalidInputError, match=r'`log_freq` must be "epoch", "batch" or a positive number'):
        WandbMetricsLogger(log_freq)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [-1, 0.5, "0", False, None])
def test_a_wrong_initial_step_is_refused(recorder: Recorder, step: object) -> None:
    recorder.start()
    with pytest.raises(InvalidInputError, match="`initial_global_step` must be an int"):
        WandbMetricsLogger(initial_global_step=step)  # type: ignore[arg-type]


def test_without_a_run_construction_says_so(recorder: Recorder) -> None:
    with pytest.raises(wandb.Error, match=r"You must call `wandb.init\(\)` before WandbMetricsLogger\(\)"):
        WandbMetricsLogger()
