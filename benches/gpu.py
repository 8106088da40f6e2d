"""A save of a model on a GPU: how long training waits, what the ten steps after it cost, and memory on both sides.

Without a GPU nothing is measured; with ``--quick`` it shows on the CPU that the harness is in order.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lamina
from benches import blocked
from benches.measure import Bench, Row, Table, demand

#: Bytes of a model with Adam.
STATES = (1e9, 10e9, 40e9)
QUICK_STATES = (4e6,)
LAYERS = 12
STEPS = 10
COLUMNS = {
    "blocked ms": "{:,.1f}",
    "first ms": "{:,.1f}",
    "next ten steps": "{:+.1%}",
    "finished ms": "{:,.0f}",
    "device MB": "{:,.0f}",
    "host MB": "{:,.0f}",
    "/ pinned copy": "{:.2f}",
}
PINNED = "copy to pinned memory"


def run(bench: Bench) -> Iterator[Table]:
    """A table per size of state."""
    import keras

    backend = keras.backend.backend()
    device = Device(backend)
    if not device.found and not bench.quick:
        bench.missing["group gpu"] = f"{backend} finds no GPU here; `make bench BENCH=gpu` says what it would measure"
        return
    for nbytes in QUICK_STATES if bench.quick else STATES:
        if device.found and 3 * nbytes > device.limit():
            bench.missing[f"a state of {nbytes / 1e9:.0f} GB"] = "the device is too small for it, a copy and a step"
            continue
        bench.say(f"gpu: {backend}, {nbytes / 1e9:.3g} GB")
        with contextlib.ExitStack() as stack:
            yield _table(backend, device, nbytes, bench, stack)


class Device:
    """What is asked of the first GPU of a backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        if backend == "torch":
            import torch

            self.found = torch.cuda.is_available()
        elif backend == "jax":
            import jax

            self.found = jax.devices()[0].platform != "cpu"
        else:
            self.found = False

    def limit(self) -> int:
        """Memory that this process may use."""
        if self.backend == "torch":
            import torch

            return int(torch.cuda.mem_get_info()[1])
        import jax

        return int((jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0))

    def in_use(self) -> int:
        """Bytes in use now."""
        if not self.found:
            return 0
        if self.backend == "torch":
            import torch

            return int(torch.cuda.memory_allocated())
        import jax

        return int((jax.devices()[0].memory_stats() or {}).get("bytes_in_use", 0))

    def wait(self, model: Any) -> None:
        """Until the device has done everything."""
        if self.backend == "torch":
            import torch

            if self.found:
                torch.cuda.synchronize()
        elif self.backend == "jax":
            import jax

            jax.block_until_ready([variable.value for variable in model.variables])


def _table(backend: str, device: Device, nbytes: float, bench: Bench, stack: contextlib.ExitStack) -> Table:
    model, x = blocked.model_and_data(int((nbytes / 12 / LAYERS) ** 0.5), LAYERS)
    ways = list(_ways(model, device, bench, stack))
    found: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    _train(model, x, device)  # compiles
    for number in range(bench.repeats + 1):
        plain = _train(model, x, device)
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            if not way.failure:
                _save_once(way, model, x, device, number, plain, found[way.name])
    state = sum(variable.value.nbytes for variable in [*model.variables, *model.optimizer.variables])
    where = backend if device.found else f"{backend}, on the CPU"
    note = (
        f"{state / 1e9:.3g} GB with the optimizer, Keras on {where}; 'next ten steps' is what they take more than ten "
        "without a save; 'finished' is until the file is on disk; 'device' is the memory there right after the save, "
        "'host' the peak, each above that before; medians, 'first' on its own; lamina's saves were read back"
    )
    return Table(f"gpu · {backend} · {nbytes / 1e9:.3g} GB", note, COLUMNS, [_row(way, found, state) for way in ways])


def _train(model: Any, x: Any, device: Device) -> float:
    """Seconds of ten steps."""
    device.wait(model)
    start = time.perf_counter()
    for _ in range(STEPS):
        model.train_on_batch(x, x)
    device.wait(model)
    return time.perf_counter() - start


def _save_once(
    way: blocked.Way, model: Any, x: Any, device: Device, number: int, plain: float, found: list[dict[str, float]]
) -> None:
    try:
        device.wait(model)
        on_device, on_host = device.in_use(), blocked.reset_peak()
        start = time.perf_counter()
        way.save(number)
        after = time.perf_counter()
        taken = device.in_use() - on_device
        stepped = _train(model, x, device)
        way.finish()
        finished = time.perf_counter()
        way.check()
    except Exception as error:  # a peer may raise anything; the table says FAIL and the others go on
        way.failure = f"{type(error).__name__}: {error}"
        return
    found.append(
        {
            "blocked": after - start,
            "steps": stepped / plain - 1,
            "finished": finished - start,
            "device": taken,
            "host": blocked.peak() - on_host,
        }
    )


def _row(way: blocked.Way, found: dict[str, list[dict[str, float]]], state: int) -> Row:
    runs = found[way.name]
    if way.failure or len(runs) < 2:
        return Row(way.name, {}, way.failure or "no run", way.name.startswith("lamina"))
    middle = {key: statistics.median(run[key] for run in runs[1:]) for key in runs[0]}
    copies = [run["blocked"] for run in found.get(PINNED, [])[1:]]
    values = {
        "blocked ms": middle["blocked"] * 1e3,
        "first ms": runs[0]["blocked"] * 1e3,
        "next ten steps": middle["steps"],
        "finished ms": middle["finished"] * 1e3,
        "device MB": middle["device"] / 1e6,
        "host MB": middle["host"] / 1e6,
        "/ pinned copy": middle["blocked"] / statistics.median(copies) if copies else float("nan"),
    }
    name = way.name
    if name == PINNED:
        name = f"{PINNED}, {state / statistics.median(copies) / 1e9:.1f} GB/s"
    seconds = {key: [run[key] for run in runs] for key in ("blocked", "finished")}
    return Row(name, values, "", way.name.startswith("lamina"), seconds)


def _ways(model: Any, device: Device, bench: Bench, stack: contextlib.ExitStack) -> Iterator[blocked.Way]:
    import keras

    from lamina.keras import ModelCheckpoint

    yield from _pinned(model, device, bench)
    for choice in ("auto", "never"):
        path = bench.folder / f"{choice}.weights.h5"
        callback = ModelCheckpoint(path, save_weights_only=True, device_copy=choice)
        yield _ours(f"lamina ModelCheckpoint, device_copy={choice!r}", callback, model, path)
    stock = keras.callbacks.ModelCheckpoint(bench.folder / "k.weights.h5", save_weights_only=True)
    yield blocked._theirs("keras ModelCheckpoint", stock, model)
    yield from blocked._orbax(model, bench)
    if device.backend == "torch":
        yield _dcp(model, bench)
    yield from blocked._wandb(model, bench, stack)


def _ours(name: str, callback: Any, model: Any, path: Path) -> blocked.Way:
    callback.set_model(model)
    callback.on_train_begin()
    saved: list[int] = []

    def save(number: int) -> None:
        saved[:] = [int(model.optimizer.iterations)]
        blocked._end_epoch(callback, number)

    def check() -> None:
        step = int(lamina.read_tensors(path, ["optimizer/vars/0"])["optimizer/vars/0"])
        demand([step] == saved, f"the file holds step {step}; it was saved at {saved[0]}")

    return blocked.Way(name, save, callback.wait_until_finished, check)


def _pinned(model: Any, device: Device, bench: Bench) -> Iterator[blocked.Way]:
    """What the bus gives: all tensors into pinned memory that is kept, and nothing else."""
    variables = [*model.variables, *model.optimizer.variables]
    copy: Callable[[], None]
    if device.backend == "torch" and device.found:
        import torch

        targets = [torch.empty_like(v.value, device="cpu", pin_memory=True) for v in variables]

        def copy() -> None:
            for target, variable in zip(targets, variables, strict=True):
                target.copy_(variable.value.detach(), non_blocking=True)
            torch.cuda.synchronize()
    elif device.backend == "jax":
        import jax

        def copy() -> None:
            arrays = [variable.value for variable in variables]
            places = [array.sharding.with_memory_kind("pinned_host") for array in arrays]
            jax.block_until_ready(jax.device_put(arrays, places))
    else:
        bench.missing[PINNED] = "there is no device"
        return
    yield blocked.Way(PINNED, lambda _: copy())


def _dcp(model: Any, bench: Bench) -> blocked.Way:
    """torch's own asynchronous checkpoint."""
    name = "torch.distributed.checkpoint.async_save"
    if importlib.util.find_spec("torch.distributed.checkpoint") is None:
        return blocked.Way(name, lambda _: None, failure="this torch does not have it")
    import torch.distributed.checkpoint as dcp

    running: list[Any] = []

    def save(number: int) -> None:
        variables = [*model.variables, *model.optimizer.variables]
        state = {f"{i}": variable.value.detach() for i, variable in enumerate(variables)}
        running[:] = [dcp.async_save(state, checkpoint_id=str(bench.folder / f"dcp-{number}"), no_dist=True)]

    return blocked.Way(name, save, lambda: running[0].result())
