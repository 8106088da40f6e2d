"""``python -m benches [names…]``: measure, print tables, write JSON."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from benches import chart, machine
from benches.corpora import Corpora
from benches.measure import Bench, Table


class Group(NamedTuple):
    """A module with rows. With ``on_demand`` it runs only if it is named: most of these import a backend and train."""

    module: str
    on_demand: bool = False


GROUPS = {
    "save": Group("benches.save"),
    "verify": Group("benches.verify"),
    "restore": Group("benches.restore"),
    "codec": Group("benches.codec"),
    "bytes": Group("benches.stored"),
    "md5": Group("benches.md5"),
    "delta": Group("benches.delta", on_demand=True),
    "writes": Group("benches.writes", on_demand=True),
    "blocked": Group("benches.blocked", on_demand=True),
    "training": Group("benches.training", on_demand=True),
    "throughput": Group("benches.throughput", on_demand=True),
    "models": Group("benches.models", on_demand=True),
    "callbacks": Group("benches.callbacks", on_demand=True),
    "wandb": Group("benches.wandb", on_demand=True),
    "wandb-restore": Group("benches.wandb_restore", on_demand=True),
    "commit": Group("benches.commit", on_demand=True),
    "scale": Group("benches.scale", on_demand=True),
    "gpu": Group("benches.gpu", on_demand=True),
}
DEFAULT = [name for name, group in GROUPS.items() if not group.on_demand]

SIZES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def size(text: str) -> int:
    """Parse a size such as ``0.5GB``."""
    found = re.fullmatch(r"([0-9.]+) ?([A-Za-z]*)", text)
    if not found or found[2] not in SIZES:
        raise argparse.ArgumentTypeError(f"expected a size such as 0.5GB or 200MB. Received: {text!r}")
    return int(float(found[1]) * SIZES[found[2]])


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benches", description="Measure lamina beside its peers.")
    parser.add_argument("names", nargs="*", help=f"groups of {', '.join(GROUPS)}; default: {', '.join(DEFAULT)}")
    parser.add_argument("--size", type=size, help="bytes of the dense corpus (default 0.5GB, with --quick 32MB)")
    parser.add_argument("--repeats", type=int, help="timed runs of each contender (default 5, with --quick 3)")
    parser.add_argument("--file", type=Path, help="measure on this checkpoint (.weights.h5, .h5, .keras) instead")
    parser.add_argument("--json", type=Path, help="write everything, each single run included, to this file")
    parser.add_argument("--chart", type=Path, help="draw the ratios to each peer on this HTML page (needs plotly)")
    parser.add_argument("--folder", type=Path, help="where to write; on the disk that is to be measured")
    parser.add_argument("--quick", action="store_true", help="small and few: is the harness in order?")
    chosen = parser.parse_args(argv)
    if unknown := [name for name in chosen.names if name not in GROUPS]:
        parser.error(f"no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
    if chosen.file and not chosen.file.is_file():
        parser.error(f"{chosen.file} is not a file")
    return chosen


def _wandb_in(folder: str) -> AbstractContextManager[object]:
    """Keep wandb's staged and cached files out of the user's home: there is a model per save."""
    place = f"{folder}/wandb"
    return patch.dict(os.environ, WANDB_SILENT="true", WANDB_DATA_DIR=place, WANDB_CACHE_DIR=place)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; the exit code is 1 if a contender of lamina failed."""
    chosen = arguments(argv)
    missing: dict[str, str] = {}
    tables: list[Table] = []
    with tempfile.TemporaryDirectory(prefix="lamina-bench-", dir=chosen.folder) as name, _wandb_in(name):
        folder = Path(name)
        about = machine.describe(folder)
        print("\n".join(f"{key:10} {value}" for key, value in about.items()), end="\n\n", flush=True)
        corpora = Corpora(folder / "corpora", chosen.size or (32 << 20 if chosen.quick else 500_000_000), chosen.file)
        start = time.monotonic()
        for group in chosen.names or DEFAULT:
            if importlib.util.find_spec(GROUPS[group].module) is None:
                missing[f"group {group}"] = f"{GROUPS[group].module} does not exist yet"
                continue
            (own := folder / group).mkdir(exist_ok=True)
            bench = Bench(corpora, own, chosen.repeats or (3 if chosen.quick else 5), chosen.quick, missing)
            for table in importlib.import_module(GROUPS[group].module).run(bench):
                tables.append(table)
                print(table.show(), flush=True)
        about["seconds"] = f"{time.monotonic() - start:.0f}"
    for what, how in missing.items():
        print(f"missing: {what}: {how}")
    if chosen.json:
        command = " ".join(["python -m benches", *(sys.argv[1:] if argv is None else argv)])
        found = {"command": command, "machine": about, "missing": missing, "tables": [t.as_json() for t in tables]}
        chosen.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    if chosen.chart:
        chart.write(chosen.chart, about, tables)
    return int(any(row.failure and row.ours for table in tables for row in table.rows))


if __name__ == "__main__":
    sys.exit(main())
