"""The table of all differences from the stock callbacks, and of known faults, for docs/differences.md.

Each line has a reason and a scenario that shows the difference. A test runs each scenario, and fails if the difference
is gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from logged_side_by_side import Logging
from side_by_side import ABSENT, Differing, Training

Scenario = Training | Logging
#: The lines that lamina prints for each checkpoint and at the end.
_FIGURES = re.compile(r"  .*; training waited .*, committed in |lamina: .*; training waited .* for them$")


@dataclass(frozen=True)
class Named:
    """A difference: what both do, why, a scenario that shows it, and the names in the outcomes that it explains."""

    subject: str
    stock: str
    lamina: str
    reason: str
    example: Scenario
    explains: Callable[[Any, Differing, str], bool]


@dataclass(frozen=True)
class Fault:
    """A known fault of lamina; its test fails when the fault is fixed."""

    what: str
    example: Scenario
    explains: Callable[[Any, Differing, str], bool]


def unexplained(scenario: Scenario, found: Differing, known: Iterable[Named | Fault] | None = None) -> Differing:
    table = [*DIFFERENCES, *FAULTS] if known is None else list(known)
    return {name: pair for name, pair in found.items() if not any(one.explains(scenario, found, name) for one in table)}


def _stock_ends(error: str) -> Callable[[Any, Differing, str], bool]:
    """Stock ends the training and lamina does not, so all later outcomes exist only with lamina."""

    def explains(scenario: Any, found: Differing, name: str) -> bool:
        ended = any(key.startswith("raised") and pair == (error, ABSENT) for key, pair in found.items())
        return ended and (name.startswith("raised") or name == "printed" or _only_more(*found[name]))

    return explains


def _only_more(stock: Any, ours: Any) -> bool:
    if isinstance(stock, list) and isinstance(ours, list):
        return ours[: len(stock)] == stock
    return bool(stock == ABSENT)


def _unknown_direction(scenario: Any, found: Differing, name: str) -> bool:
    is_one = isinstance(scenario, Training) and scenario.mode not in ("min", "max")
    return is_one and _stock_ends("ValueError")(scenario, found, name)


def _metric_in_the_name(scenario: Any, found: Differing, name: str) -> bool:
    return "val_" in scenario.file and _stock_ends("KeyError")(scenario, found, name)


def _figures(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Training) and scenario.verbose and name == "printed"):
        return False
    stock, ours = (sorted(line for line in lines if line and not _FIGURES.match(line)) for lines in found[name])
    return bool(stock == ours)


def _nan(scenario: Any, found: Differing, name: str) -> bool:
    return scenario.best_only and any(score != score for score in scenario.scores) and not name.startswith("raised")


def _best_alias(scenario: Any, found: Differing, name: str) -> bool:
    if not name.startswith("aliases "):
        return False
    stock, ours = found[name]
    return isinstance(scenario, Logging) and ours != ABSENT and stock == [one for one in ours if one != "best"]


def _unchanged_logged_again(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and scenario.best_only and name.startswith("aliases ")):
        return False
    stock, ours = found[name]
    own = [one for one in ours if one != "best"]
    moved = {one for pair in found.values() if isinstance(pair[0], list) for one in pair[0] if isinstance(one, str)}
    return set(own) <= set(stock) | moved


def _best_with_epochs(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and scenario.best_only and "{" in scenario.file):
        return False
    ended = any(pair == ("FileNotFoundError", ABSENT) for pair in found.values())
    return ended and (name.startswith(("raised", "aliases")) or _only_more(*found[name]))


def _eval_offline(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and scenario.mode == "offline" and "eval" in scenario.callbacks):
        return False
    return _stock_ends("TypeError")(scenario, found, name) or name.startswith("aliases ")


def _hard_link(scenario: Any, found: Differing, name: str) -> bool:
    if getattr(scenario, "before", "") != "hard link":
        return False
    return name.startswith("names of ") or name == "content other"


def _true_steps(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and isinstance(scenario.log_freq, int) and name == "history"):
        return False
    stock, ours = ([{k: v for k, v in row.items() if k != "batch/batch_step"} for row in rows] for rows in found[name])
    return stock == ours


def _odd_run(scenario: Any, found: Differing, name: str) -> bool:
    odd = isinstance(scenario, Logging) and scenario.run_id in ("lr=0.1 bs=32", "ü", "x" * 120)
    return odd and name.startswith(("aliases", "type", "entry")) and found[name][0] == ABSENT


DIFFERENCES = [
    Named(
        "`mode` is `auto` and the direction of the metric is not known",
        "ends training with ValueError at the first epoch's end",
        "takes every value for an improvement, and warns",
        "a checkpoint never ends a training that it can save",
        Training(mode="auto"),
        _unknown_direction,
    ),
    Named(
        "a validation metric in the file name, with a number for `save_freq`",
        "ends training with KeyError at the first save",
        "writes the last epoch's value, `nan` in the first epoch, and warns at construction",
        "batches have no validation metrics, and the save is worth more than its name",
        Training(file="m-{val_loss:.1f}.keras", freq=2),
        _metric_in_the_name,
    ),
    Named(
        "`verbose=1`",
        'prints "finished saving model to …" when the file is written',
        'prints the same line at the commit, maybe behind the next epoch\'s "saving model to …", and adds its size '
        "and the times",
        "the file is written while training goes on",
        Training(verbose=1),
        _figures,
    ),
    Named(
        "`save_best_only=True` and the metric is NaN",
        "takes the first NaN as the best value for ever, and saves no more",
        "never takes NaN as the best value",
        "a number is better than none",
        Training(scores=(float("nan"), 1.0, 2.0), best_only=True),
        _nan,
    ),
    Named(
        "the file has several names (hard links)",
        "truncates and rewrites it, so the other names show the new content, or a torn one after a kill",
        "puts a new file in the place of this one name; the other names keep the old content",
        "a file that is replaced by a rename is whole at every moment",
        Training(file="sub/m.keras", before="hard link"),
        _hard_link,
    ),
    Named(
        "alias `best` of the versions",
        "there is none",
        "`best` stands at the version with the best monitored value",
        "it tells which version to take",
        Logging(),
        _best_alias,
    ),
    Named(
        "`save_best_only=True`, a file name without placeholders, and an epoch that is not better",
        "logs the old file again: `latest` and `epoch_N` of this epoch move to the old version",
        "logs nothing",
        "`epoch_N` is the state of epoch N or does not exist",
        Logging(best_only=True),
        _unchanged_logged_again,
    ),
    Named(
        "`save_best_only=True`, a file name with `{epoch}`, and an epoch that is not better",
        "ends training with FileNotFoundError",
        "logs nothing, and goes on",
        "a checkpoint never ends a training that it can save",
        Logging(best_only=True, file="m-{epoch}.keras"),
        _best_with_epochs,
    ),
    Named(
        "a run id that W&B takes and artifact names do not",
        "logs no version, and says nothing",
        "logs every version, under a name that is cleaned",
        "no checkpoint is lost without a word",
        Logging(callbacks=("score", "checkpoint"), run_id="lr=0.1 bs=32"),
        _odd_run,
    ),
    Named(
        "`WandbEvalCallback` in an offline run",
        "ends training with TypeError",
        "logs both tables, and `wandb sync` sends them",
        "offline runs are as good as others",
        Logging(mode="offline", callbacks=("score", "eval")),
        _eval_offline,
    ),
    Named(
        "`batch/batch_step` with a number for `log_freq`",
        "counts as if each epoch had a multiple of `log_freq` batches",
        "is the step that was taken",
        "a curve must not be stretched by how often it is drawn",
        Logging(callbacks=("score", "metrics"), log_freq=2),
        _true_steps,
    ),
]


FAULTS: list[Fault] = []


# The comparison leaves this out.
NOT_COMPARED = """\
Not compared, because two saves of the stock callback differ in it too: the dates in a `.keras` file (`metadata.json`
and the members' times), and times in W&B's history. Not compared because it only adds to what is there: the metadata
of versions, the summary's figures of what checkpoints cost, and `.lamina` repositories.
"""


def page() -> str:
    """docs/differences.md."""
    rows = [f"| {one.subject} | {one.stock} | {one.lamina} | {one.reason} |" for one in DIFFERENCES]
    lines = [
        "# Differences from the stock callbacks",
        "",
        "Tests run the same trainings with `keras.callbacks.ModelCheckpoint` or wandb's Keras callbacks and with",
        "lamina's, and compare what is there afterwards: files with their bytes, links and modes; versions, their",
        "entries and aliases and the history on the server; printed lines; how the training ended. Trainings differ in",
        "arguments, the order of callbacks, file names, run ids, data, second `fit`s, resumed and offline runs. Any",
        "difference that is not in this table fails the tests, and so does a line that no longer holds.",
        "",
        "| what | stock | lamina | why |",
        "|---|---|---|---|",
        *rows,
        "",
        NOT_COMPARED,
    ]
    return "\n".join(lines)
