"""The codecs on one thread, in memory: size, and speed of encoding and decoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benches import peers
from benches.corpora import Corpus, size_text
from benches.measure import Bench, Contender, Outcome, Row, Table, demand, race
from benches.peers import CHUNK, Bytes, CodecPeer

#: Enough to be far out of the caches' reach, little enough for the slow peers.
MOST = 128 << 20
LESS = 16 << 20
#: Smaller tensors are not what codecs are chosen by.
LARGE = 16 << 10


def run(bench: Bench) -> Iterator[Table]:
    """One table per corpus."""
    for corpus in bench.corpora.choose(("dense", "trained", "bfloat16", "float16"), bench.missing):
        dtype, raw = large_tensors(corpus, LESS if bench.quick else MOST)
        if raw.size:
            bench.say(f"codec: {corpus}")
            yield _table(corpus, dtype, raw, bench)


def large_tensors(corpus: Corpus, most: int) -> tuple[str, Bytes]:
    """The bytes of the large tensors of the most frequent dtype, back to back, and that dtype."""
    large = [t for t in corpus.tensors() if t.nbytes >= LARGE]
    sizes: dict[str, int] = {}
    for t in large:
        sizes[t.dtype] = sizes.get(t.dtype, 0) + t.nbytes
    dtype = max(sizes, key=lambda name: sizes[name], default="|u1")
    data = np.memmap(corpus.path, np.uint8, "r")
    parts = [data[t.offset : t.offset + t.nbytes] for t in large if t.dtype == dtype]
    raw = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    return dtype, raw[: most // 8 * 8]


def _table(corpus: Corpus, dtype: str, raw: Bytes, bench: Bench) -> Table:
    entrants = [Entrant(peer, raw) for peer in peers.codecs(dtype, bench.missing)]
    outcomes = race([c for e in entrants for c in e.contenders()], bench.repeats)
    note = (
        f"{size_text(raw.size)} of {dtype} in chunks of {size_text(CHUNK)}, one thread; ratio = encoded ÷ raw bytes; "
        "decoded to memory that is there, as a model's arrays are filled; zstd and ZipNN can only give new memory"
    )
    formats = {
        "ratio": "{:.4f}",
        "encode GB/s": "{:.2f}",
        "spread": "{:.0%}",
        "decode GB/s": "{:.2f}",
        "spread ": "{:.0%}",
    }
    return Table(f"codec · {corpus.name}", note, formats, [e.row(outcomes) for e in entrants])


class Entrant:
    """A peer's two contenders: one encodes, the other decodes the result."""

    def __init__(self, peer: CodecPeer, raw: Bytes) -> None:
        self.peer = peer
        self.raw = raw
        step = raw.size if peer.whole else CHUNK
        self.chunks = [raw[at : at + step] for at in range(0, raw.size, step)]
        self.encoded: list[Any] = []

    def contenders(self) -> Iterator[Contender]:
        """Encode, and keep the result for the decoder."""
        peer = self.peer
        yield Contender(f"{peer.name} in", self._encode, self._keep, self._given, peer.ours)
        yield Contender(f"{peer.name} out", self._decode, lambda _: None, ours=peer.ours)

    def _given(self) -> list[Any]:
        return [self.peer.prepare(chunk) for chunk in self.chunks]

    def _encode(self, given: list[Any]) -> list[Any]:
        return [self.peer.encode(chunk) for chunk in given]

    def _keep(self, encoded: list[Any]) -> None:
        self.encoded = encoded
        for chunk, data in zip(self.chunks, encoded, strict=True):
            back = self.peer.decode(data, chunk.size)
            demand(np.array_equal(np.frombuffer(back, np.uint8), chunk), "the decoded bytes differ from the original")

    def _decode(self, _: Any) -> None:
        if not self.encoded:
            self._keep(self._encode(self._given()))
        for chunk, data in zip(self.chunks, self.encoded, strict=True):
            self.peer.decode(data, chunk.size)

    def row(self, outcomes: dict[str, Outcome]) -> Row:
        """Size and both speeds."""
        there, back = (outcomes[f"{self.peer.name} {way}"] for way in ("in", "out"))
        values = {
            "ratio": sum(map(self.peer.size, self.encoded)) / self.raw.size,
            "encode GB/s": self.raw.size / there.median / 1e9,
            "spread": there.spread,
            "decode GB/s": self.raw.size / back.median / 1e9,
            "spread ": back.spread,
        }
        failure = there.failure or back.failure
        return Row(self.peer.name, values, failure, self.peer.ours, {"in": there.seconds, "out": back.seconds})
