"""The engine's codecs, chunk by chunk: every dtype round-trips, and damage is an error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from lamina import _core
from lamina.errors import CorruptDataError, InvalidInputError, UnsupportedFormatError

pytestmark = pytest.mark.quick

LIMIT = 4 << 20  # of a chunk (docs/format.md §10)
CHOICES = ("auto", "raw", "zstd", "planes", "delta")


def samples() -> dict[str, np.ndarray]:
    """A chunk of each class of dtype, with typical bytes."""
    rng = np.random.default_rng(7)
    normal = rng.normal(0, 0.02, 40_000)
    whole = rng.integers(-300, 300, 40_000)
    arrays = {kind: normal.astype(kind) for kind in ("<f2", "<f4", "<f8", ">f2", ">f4", ">f8", "<c8", "<c16", ">c8")}
    arrays |= {kind: whole.astype(kind) for kind in ("|i1", "|u1", "<i2", "<i4", "<i8", "<u8", ">i4", ">u2")}
    arrays |= {"|b1": whole > 0, "bfloat16": normal.astype(ml_dtypes.bfloat16)}
    arrays |= {"float8_e4m3fn": normal.astype(ml_dtypes.float8_e4m3fn), "int4": whole.astype(ml_dtypes.int4)}
    arrays |= {"|S5": np.array([b"hello", b"a"] * 999), "<U3": np.array(["né", "xyz"] * 999), "|V3": whole.astype("V3")}
    return arrays


def as_bytes(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(array.tobytes(), np.uint8)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("dtype", samples())
def test_every_dtype_comes_back(dtype: str, choice: str) -> None:
    raw = as_bytes(samples()[dtype])
    # Full, empty, one byte, and a length that is not a multiple of any element size.
    for part in (raw, raw[:0], raw[:1], raw[: len(raw) // 2 | 1]):
        codec, encoded = _core.encode(part, dtype, choice)
        assert codec in ("raw", "zstd", "planes")
        assert choice != "raw" or codec == "raw"
        assert len(encoded) < len(part) or (codec == "raw" and len(encoded) == len(part))
        assert _core.decode(codec, encoded, len(part)) == part.tobytes()
        _core.decode_into(codec, encoded, there := np.empty_like(part))
        assert np.array_equal(there, part)


def test_floats_shrink_as_planes() -> None:
    for dtype, most in (("<f4", 0.86), ("bfloat16", 0.73)):
        raw = as_bytes(samples()[dtype])
        codec, encoded = _core.encode(raw, dtype, "auto")
        assert codec == "planes"
        assert len(encoded) < most * len(raw)


def test_every_special_value_comes_back() -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16):
        raw = np.arange(1 << 16, dtype="<u2").view(np.uint8)  # nan, infinities and subnormals are all among them
        codec, encoded = _core.encode(raw, "<f2" if dtype is np.float16 else "bfloat16", "planes")
        assert _core.decode(codec, encoded, len(raw)) == raw.tobytes()


@pytest.mark.parametrize("codec", ["raw", "zstd", "planes"])
def test_wrong_data_is_damage(codec: str) -> None:
    raw = as_bytes(samples()["<f4"])
    for bad in (b"", b"\0", bytes(100), raw.tobytes()[:1000]):
        with pytest.raises(CorruptDataError):
            _core.decode(codec, bad, len(raw))


@pytest.mark.parametrize("choice", ["zstd", "planes"])
def test_cut_and_longer_chunks_are_damage(choice: str) -> None:
    raw = as_bytes(np.tile(samples()["<f4"][:5000], 4))
    codec, encoded = _core.encode(raw, "<f4", choice)
    assert codec == choice
    for bad in (encoded[:-1], encoded[: len(encoded) // 2], encoded + b"\0"):
        with pytest.raises(CorruptDataError):
            _core.decode(codec, bad, len(raw))
    for length in (0, len(raw) - 4, len(raw) + 4):
        with pytest.raises(CorruptDataError):
            _core.decode(codec, encoded, length)


def test_wrong_arguments() -> None:
    raw = np.zeros(8, np.uint8)
    with pytest.raises(InvalidInputError, match='unknown codec "best"'):
        _core.encode(raw, "<f4", "best")
    with pytest.raises(InvalidInputError, match='unknown dtype "f4"'):
        _core.encode(raw, "f4", "planes")
    with pytest.raises(InvalidInputError, match="contiguous"):
        _core.encode(np.zeros(16, np.uint8)[::2], "<f4", "planes")
    with pytest.raises(InvalidInputError, match="at most 4194304"):
        _core.encode(np.zeros(LIMIT + 1, np.uint8), "|u1", "raw")
    with pytest.raises(InvalidInputError, match='unknown codec "auto"'):
        _core.decode("auto", b"", 0)
    with pytest.raises(InvalidInputError, match="at most 4194304"):
        _core.decode("zstd", b"", LIMIT + 1)
    with pytest.raises(UnsupportedFormatError, match="base"):
        _core.decode("delta", b"abcd", 8)


def test_the_gil_is_released() -> None:
    raw = as_bytes(np.random.default_rng(0).normal(0, 0.02, LIMIT // 4).astype("<f4"))
    codec, encoded = _core.encode(raw, "<f4", "planes")
    assert turns_beside(lambda: _core.encode(raw, "<f4", "planes")) > 5
    assert turns_beside(lambda: _core.decode(codec, encoded, len(raw))) > 5


def turns_beside(call: Callable[[], object]) -> int:
    """How often this thread runs while another makes 30 calls and is never asked to release the GIL."""
    done = threading.Event()

    def work() -> None:
        for _ in range(30):
            call()
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    thread = threading.Thread(target=work)
    try:
        thread.start()
        turns = 0
        while not done.is_set():
            time.sleep(0)  # releases the GIL, and gets it back when the call releases it
            turns += 1
    finally:
        thread.join()
        sys.setswitchinterval(interval)
    return turns


def test_threads_have_codecs_of_their_own() -> None:
    chunks = [as_bytes(array) for array in samples().values()]
    wanted = [_core.encode(chunk, "<f4", "planes") for chunk in chunks]

    def work() -> list[tuple[str, bytes]]:
        return [_core.encode(chunk, "<f4", "planes") for chunk in chunks]

    with ThreadPoolExecutor(4) as pool:
        for found in [pool.submit(work) for _ in range(8)]:
            assert found.result() == wanted
