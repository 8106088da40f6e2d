"""Other libraries behind one small interface. Each is optional; a missing one is named, not measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina import _core

Bytes = npt.NDArray[np.uint8]

#: Bytes that a codec gets at a time: the engine's chunk size.
CHUNK = 1 << 20


@dataclass(frozen=True)
class CodecPeer:
    """A codec, on one thread. ``encode`` may change its argument; ``decode`` gets its result, and the raw length."""

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any, int], Any]
    prepare: Callable[[Bytes], Any] = lambda raw: raw
    size: Callable[[Any], int] = len
    whole: bool = False  # gets everything at once instead of chunks
    ours: bool = False


def lamina(dtype: str, choice: str) -> CodecPeer:
    """The engine's codec, chunk by chunk, as in a save; it decodes into existing memory, as in a restore."""
    back = np.empty(CHUNK, np.uint8)

    def decode(encoded: tuple[str, bytes], length: int) -> Bytes:
        _core.decode_into(*encoded, back[:length])
        return back[:length]

    return CodecPeer(
        f"lamina {choice}",
        lambda raw: _core.encode(raw, dtype, choice),
        decode,
        size=lambda encoded: len(encoded[1]),
        ours=True,
    )


def memory_copy() -> CodecPeer:
    """A copy, the lower bound for every codec."""
    there, back = np.empty(CHUNK, np.uint8), np.empty(CHUNK, np.uint8)

    def encode(raw: Bytes) -> Bytes:
        np.copyto(there[: raw.size], raw)
        return raw

    def decode(raw: Bytes, length: int) -> Bytes:
        np.copyto(back[:length], raw)
        return back[:length]

    return CodecPeer("memory copy", encode, decode)


def zstd(dtype: str) -> Iterator[CodecPeer]:
    """Plain zstd."""
    import zstandard

    compressor, decompressor = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    yield CodecPeer("zstd 3", compressor.compress, lambda data, length: decompressor.decompress(data, length))


def zipnn(dtype: str) -> Iterator[CodecPeer]:
    """ZipNN, by chunks and as its users call it. It transforms its argument in place, so it gets a copy."""
    names = {"<f4": "float32", "bfloat16": "bfloat16", "<f2": "float16"}
    if dtype not in names:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it imports torch
        from zipnn import ZipNN

    def peer(name: str, whole: bool) -> CodecPeer:
        codec = ZipNN(method="huffman", input_format="byte", bytearray_dtype=names[dtype], threads=1)
        return CodecPeer(name, codec.compress, lambda data, _: codec.decompress(data), bytearray, whole=whole)

    yield peer("ZipNN", False)
    yield peer("ZipNN, all at once", True)


def blosc2(dtype: str) -> Iterator[CodecPeer]:
    """blosc2 with zstd behind its byte shuffle."""
    import blosc2 as library

    from lamina.repository.dtypes import to_numpy

    settings = {
        "codec": library.Codec.ZSTD,
        "clevel": 1,
        "filters": [library.Filter.SHUFFLE],
        "typesize": to_numpy(dtype).itemsize,
        "nthreads": 1,
    }
    back = np.empty(CHUNK, np.uint8)

    def decode(data: bytes, length: int) -> Bytes:
        library.decompress2(data, dst=back[:length], nthreads=1)
        return back[:length]

    yield CodecPeer("blosc2 zstd 1, shuffle", lambda raw: library.compress2(raw, **settings), decode)


def pcodec(dtype: str) -> Iterator[CodecPeer]:
    """pcodec at its default level; bfloat16 as unsigned integers."""
    from pcodec import ChunkConfig, standalone

    from lamina.repository.dtypes import to_numpy

    known = np.dtype(np.uint16) if dtype == "bfloat16" else to_numpy(dtype)
    back = np.empty(CHUNK, np.uint8)

    def decode(data: bytes, length: int) -> Bytes:
        standalone.simple_decompress_into(data, back[:length].view(known))
        return back[:length]

    yield CodecPeer(
        "pcodec 8" + (", as uint16" if dtype == "bfloat16" else ""),
        lambda raw: standalone.simple_compress(raw.view(known), ChunkConfig(compression_level=8)),
        decode,
    )


#: Package → peer.
CODECS: dict[str, Callable[[str], Iterator[CodecPeer]]] = {
    "zipnn": zipnn,
    "blosc2": blosc2,
    "zstandard": zstd,
    "pcodec": pcodec,
}


def codecs(dtype: str, missing: dict[str, str]) -> Iterator[CodecPeer]:
    """All codecs for a dtype, lamina's first; missing packages are noted in ``missing``."""
    yield lamina(dtype, "auto")
    for package, peers in CODECS.items():
        try:
            yield from peers(dtype)
        except ImportError as error:
            missing[f"peer {package}"] = f"pip install {package} ({error})"
    yield memory_copy()


def blake3(missing: dict[str, str]) -> Iterator[tuple[str, Callable[[Bytes], str]]]:
    """BLAKE3 of a buffer with one thread, and with as many threads as the engine uses."""
    try:
        import blake3 as library
    except ImportError as error:
        missing["peer blake3"] = f"pip install blake3 ({error})"
        return
    threads = _core.default_threads()
    for n in sorted({1, threads}):
        yield f"BLAKE3, {n} thread{'s' * (n > 1)}", partial(_hex, library.blake3, n)


def xet(missing: dict[str, str]) -> Iterator[tuple[str, Callable[[str], str]]]:
    """hf-xet's work before an upload: content-defined chunking and hashing. The rest needs a server."""
    try:
        from hf_xet import hash_files
    except ImportError as error:
        missing["peer hf-xet"] = f"pip install hf-xet ({error})"
        return
    yield "hf-xet, cut and hash", lambda path: str(hash_files([path])[0].hash)


def safetensors(missing: dict[str, str]) -> Any:
    """safetensors' functions for numpy arrays; None if it is missing."""
    try:
        import safetensors.numpy as library
    except ImportError as error:
        missing["peer safetensors"] = f"pip install safetensors ({error})"
        return None
    return library


def _hex(blake3: Any, threads: int, data: Bytes) -> str:
    return str(blake3(data, max_threads=threads).hexdigest())
