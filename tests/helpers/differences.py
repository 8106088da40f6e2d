"""The table of all differences from the stock callbacks, and of known faults, for docs/differences.md.

Each line has a reason and a scenario that shows the difference. A test runs each scenario, and fails if the difference
is gone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from logged_side_by_side import Logging
from side_by_side import ABSENT, Differing, Training

Scenario = Training | Logging
#: What lamina prints of a checkpoint and at the end.
_FIGURES = re.compile(r"printed: (.*; training waited .*, committed in |lamina: .*; training waited .* for them$)")


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
    """Stock ends the training and lamina does not, or later and for another reason: whatever follows is only there
    with lamina."""

    def explains(scenario: Any, found: Differing, name: str) -> bool:
        ended = any(key.startswith("raised") and pair[0] == error for key, pair in found.items())
        once = "{epoch" in scenario.file and scenario.freq == "epoch" and scenario.before == "nothing"
        overwrites = name.startswith("content ") and not once
        return ended and (name.startswith("raised") or overwrites or _only_more(*found[name]))

    return explains


def _only_more(stock: Any, ours: Any) -> bool:
    if isinstance(stock, list) and isinstance(ours, list):
        return ours[: len(stock)] == stock
    if isinstance(stock, int) and isinstance(ours, int):
        return stock < ours
    return bool(stock == ABSENT)


def _unknown_direction(scenario: Any, found: Differing, name: str) -> bool:
    is_one = isinstance(scenario, Training) and scenario.mode not in ("min", "max")
    return is_one and _stock_ends("ValueError")(scenario, found, name)


def _direction_at_batches(scenario: Any, found: Differing, name: str) -> bool:
    is_one = isinstance(scenario, Training) and scenario.best_only
    return is_one and scenario.freq != "epoch" and _stock_ends("TypeError")(scenario, found, name)


def _saved_model(scenario: Any, found: Differing, name: str) -> bool:
    is_one = isinstance(scenario, Training) and "." not in scenario.file and not scenario.weights_only
    return is_one and _stock_ends("ValueError")(scenario, found, name)


def _legacy_file(scenario: Any, found: Differing, name: str) -> bool:
    legacy = scenario.file.endswith(".h5") and not scenario.file.endswith(".weights.h5")
    return legacy and name.startswith("warned: ") and "falls back to Keras's own save" in name


def _late_metric(scenario: Any, found: Differing, name: str) -> bool:
    late = isinstance(scenario, Training) and scenario.freq != "epoch" and "val_" in scenario.monitor + scenario.file
    return late and name.startswith("warned: ") and "validation metrics" in name


def _metric_in_the_name(scenario: Any, found: Differing, name: str) -> bool:
    return "val_" in scenario.file and _stock_ends("KeyError")(scenario, found, name)


def _figures(scenario: Any, found: Differing, name: str) -> bool:
    return bool(scenario.verbose and _FIGURES.match(name))


def _nan(scenario: Any, found: Differing, name: str) -> bool:
    """Where one saves and the other does not, or has another best value; nowhere else."""
    if not (isinstance(scenario, Training) and scenario.best_only and scenario.monitor == "score"):
        return False
    if scenario.first or scenario.freq != "epoch" or not any(map(math.isnan, scenario.scores)):
        return False
    stock, ours = (_saves(scenario, nan_is_best=which) for which in (True, False))
    if name.startswith("printed: Epoch "):
        return True
    if "{" not in scenario.file:
        return stock[-1:] != ours[-1:]
    differ = {_file_of(scenario, epoch) for _, epoch in set(stock) ^ set(ours)}
    both_save = {_file_of(scenario, epoch) for _, epoch in set(stock) | set(ours)}
    again = "again" in scenario.event and stock != ours  # the later fit of the two overwrites the earlier one's
    return any(name.endswith(f" {file}") for file in (both_save if again else differ))


def _file_of(scenario: Training, epoch: int) -> str:
    return scenario.file.format(epoch=epoch + 1, score=scenario.scores[epoch])


def _saves(scenario: Any, *, nan_is_best: bool = True, best_comes_back: bool = False) -> list[tuple[int, int]]:
    """(fit, epoch) of each save that is decided for by the score; ``nan_is_best`` where there is no best value yet."""
    sign = -1.0 if isinstance(scenario, Training) and scenario.mode == "max" else 1.0
    found: list[tuple[int, int]] = []
    best: float | None = None
    for turn, epochs in enumerate(_turns(scenario)):
        if not turn or not (best_comes_back or _goes_on(scenario)):
            best = getattr(scenario, "threshold", None)
        for epoch in epochs:
            score = scenario.scores[epoch]
            better = best is None or sign * score < sign * best
            if better and (nan_is_best or not math.isnan(score)):
                best = score
                found.append((turn, epoch))
    return found


def _goes_on(scenario: Any) -> bool:
    """Whether the next fit has the same callback, or one that knows its best value."""
    same = ["again", "again in another directory"] if isinstance(scenario, Training) else ["again"]
    return scenario.event in same


def _turns(scenario: Any) -> list[range]:
    """The epochs of each fit."""
    whole = range(len(scenario.scores))
    if scenario.event == "interrupted":
        return [whole[:1]]
    if scenario.event == "killed":
        return [whole[:-1], whole[-1:]]
    return [whole, whole] if "again" in scenario.event or scenario.event == "resumed run" else [whole]


def _best_alias(scenario: Any, found: Differing, name: str) -> bool:
    if not name.startswith("aliases "):
        return False
    stock, ours = found[name]
    return isinstance(scenario, Logging) and ours != ABSENT and stock == [one for one in ours if one != "best"]


def _unchanged_logged_again(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and scenario.best_only and "{" not in scenario.file):
        return False
    if name.startswith(("said: wandb: WARNING When using `save_best_only`", "said: wandb: WARNING Artifact")):
        return bool(found[name][1] == ABSENT)
    version = re.fullmatch(r"aliases \S+_model:v(\d+)", name)
    if version is None or scenario.freq != "epoch" or not _score_is_known(scenario):
        return False
    stock, ours = ([one for one in names if one != "best"] for names in found[name])
    wanted = [_aliases(scenario, int(version[1]), again=again) for again in (True, False)]
    return [stock, ours] == wanted


def _score_is_known(scenario: Logging) -> bool:
    """To the checkpoint, which otherwise takes every epoch for the best."""
    return "score" in scenario.callbacks[: scenario.callbacks.index("checkpoint")]


def _aliases(scenario: Logging, version: int, *, again: bool) -> list[str]:
    """Of a version; ``again``: of those that are not better the old file is logged once more."""
    saves, number = set(_saves(scenario)), -1
    held: dict[str, int] = {}
    for turn, epochs in enumerate(_turns(scenario)):
        for epoch in epochs:
            number += (turn, epoch) in saves
            if (turn, epoch) in saves or again:
                held |= {"latest": number, f"epoch_{epoch}": number}
    return sorted(alias for alias, holder in held.items() if holder == version)


def _best_with_epochs(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and scenario.best_only and "{" in scenario.file):
        return False
    return _more_than_ended(found, name, "FileNotFoundError")


def _ends_earlier(scenario: Logging, found: Differing, name: str, error: str) -> bool:
    """The same, with files that ours overwrites until the end."""
    overwritten = name == f"content {scenario.file}" or (name.startswith("content ") and "again" in scenario.event)
    return _more_than_ended(found, name, error) or (overwritten and _more_than_ended(found, "raised in run 0", error))


def _eval_offline(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and scenario.mode == "offline" and "eval" in scenario.callbacks):
        return False
    return _ends_earlier(scenario, found, name, "TypeError")


def _more_than_ended(found: Differing, name: str, error: str) -> bool:
    """Stock ends the training: what it has logged is there, though later versions have taken its names."""
    if not any(key.startswith("raised") and pair == (error, ABSENT) for key, pair in found.items()):
        return False
    stock, ours = found.get(name, (ABSENT, ABSENT))
    if name.startswith("aliases ") and ABSENT not in (stock, ours):
        moved = {
            one
            for pair in found.values()
            if pair[0] == ABSENT and isinstance(pair[1], list)
            for one in pair[1]
            if isinstance(one, str)
        }
        return set(stock) - set(ours) <= moved
    return name.startswith(("raised", "summary")) or _only_more(stock, ours)


def _waits(scenario: Any, found: Differing, name: str) -> bool:
    offline = isinstance(scenario, Logging) and scenario.mode == "offline"
    return offline and bool(re.match(r"said: wandb: \d+ checkpoints? (?:is|are) stored in ", name))


def _not_monitored(scenario: Any, found: Differing, name: str) -> bool:
    if isinstance(scenario, Training):
        there = scenario.monitor in ("loss", "val_loss") or (scenario.monitor == "score" and not scenario.first)
    else:
        there = "checkpoint" not in scenario.callbacks or _score_is_known(scenario)
    return not there and name.startswith("warned: `monitor` ") and "no save is marked as the best" in name


def _resumes(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and scenario.resume and scenario.event == "killed"):
        return False
    if name.startswith("printed: Resuming from the end of epoch "):
        return True
    stock, ours = found[name]
    if scenario.best_only and len(_saves(scenario, best_comes_back=True)) < len(_saves(scenario)):
        last = f"_model:v{len(_saves(scenario)) - 1}"
        return _is_not_best(scenario, name, stock, ours, last)
    if not name.startswith(("content", "entry")) or ABSENT in (stock, ours):
        return False
    return _without_configuration(stock) == _without_configuration(ours)


def _without_configuration(members: list[Any]) -> list[Any]:
    return [member for member in members if member[0] != "config.json"]


def _is_not_best(scenario: Logging, name: str, stock: Any, ours: Any, last: str) -> bool:
    """Stock, which has forgotten the best value, saves a worse model over it, and makes the ``last`` version of it."""
    if last in name:
        return bool(ours == ABSENT)
    if name.startswith("aliases "):
        return set(stock) ^ set(ours) <= {"best", "latest"}
    return name == f"content {scenario.file}"


def _step_goes_on(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and scenario.event == "killed" and scenario.log_freq != "epoch"):
        return False
    return _other_steps_alone(found, name)


def _other_steps_alone(found: Differing, name: str) -> bool:
    if name == "history":
        stock, ours = (
            [{key: value for key, value in row.items() if key != "batch/batch_step"} for row in rows]
            for rows in found[name]
        )
        return stock == ours
    return name == "summary batch/batch_step"


def _encoded_name(scenario: Any, found: Differing, name: str) -> bool:
    if not (isinstance(scenario, Logging) and scenario.layout == "packs" and name.startswith("entry ")):
        return False
    version, _, file = name.partition("/")
    stock, ours = found[name]
    if ours != ABSENT:
        return "%3A" in file and found.get(f"{version}/{unquote(file)}", (None,))[0] == ours
    return ":" in file and found.get(f"{version}/{file.replace(':', '%3A')}", (None, None))[1] == stock


def _hard_link(scenario: Any, found: Differing, name: str) -> bool:
    if getattr(scenario, "before", "") != "hard link":
        return False
    return name.startswith("names of ") or name == "content other"


def _true_steps(scenario: Any, found: Differing, name: str) -> bool:
    by_number = isinstance(scenario, Logging) and isinstance(scenario.log_freq, int)
    return by_number and _other_steps_alone(found, name)


def _axis_of_epochs(scenario: Any, found: Differing, name: str) -> bool:
    by_batches = isinstance(scenario, Logging) and scenario.log_freq != "epoch"
    return by_batches and name in ("axis of epoch/*", "axis of epoch/epoch") and found[name][0] == ABSENT


def _odd_run(scenario: Any, found: Differing, name: str) -> bool:
    odd = isinstance(scenario, Logging) and scenario.run_id in ("lr=0.1 bs=32", "ü", "x" * 120)
    if not odd:
        return False
    ends = "eval" in scenario.callbacks and _ends_earlier(scenario, found, name, "ValueError")
    return ends or (found[name][0] == ABSENT and name.startswith(("aliases", "type", "entry", _NO_NAME)))


#: How the cleaned name is told.
_NO_NAME = "said: wandb: WARNING W&B does not allow the artifact name "


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
        "`save_best_only=True`, with a number for `save_freq`",
        "ends training with TypeError when it compares two values before the first epoch ends",
        "knows which way is better before the first save",
        "a checkpoint never ends a training that it can save",
        Training(monitor="loss", best_only=True, freq=1),
        _direction_at_batches,
    ),
    Named(
        "a path without an extension, on TensorFlow and JAX",
        "is refused with ValueError",
        "is a folder for a SavedModel",
        "wandb's documentation and older code name such paths",
        Training(file="m"),
        _saved_model,
    ),
    Named(
        "`filepath` ends in `.h5`",
        "writes it while training waits",
        "does the same, and warns of it",
        "other files are written while training goes on",
        Training(file="m.h5"),
        _legacy_file,
    ),
    Named(
        "a validation metric is monitored, with a number for `save_freq` and `save_best_only=True`",
        "warns at the first save",
        "warns at construction",
        "batches have no validation metrics",
        Training(monitor="val_loss", best_only=True, freq=2),
        _late_metric,
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
        Logging(mode="offline"),
        _best_alias,
    ),
    Named(
        "`save_best_only=True`, a file name without placeholders, and an epoch that is not better",
        "logs the old file again: `latest` and `epoch_N` of this epoch move to the old version; warns of such names",
        "logs nothing, and needs no warning",
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
        "logs no version, and says nothing; `WandbEvalCallback` ends training with ValueError",
        "logs every version, under a name that is cleaned, and says which",
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
        '`layout="packs"` and a colon, backslash or control character in the file name',
        "there is no such layout",
        "the file of the snapshot is percent-encoded (`:` is `%3A`); the plain file has its own name",
        "a snapshot comes back on every file system",
        Logging(layout="packs", file="odd: ü-{epoch}.keras", callbacks=("score", "checkpoint")),
        _encoded_name,
    ),
    Named(
        "an offline run ends",
        "W&B tells the `wandb sync` command",
        "tells `lamina push` as well",
        "a directory that was moved or copied is sent by `lamina push` alone",
        Logging(mode="offline"),
        _waits,
    ),
    Named(
        "`resume=True` after a kill",
        "there is no such argument; the model is loaded from its file, with the configuration that loading gives it",
        "goes on with the model that your code has built, and says where; the best value comes back as well, so that "
        "`save_best_only` does not save a worse model",
        "the code may have changed what is not in the weights, such as the learning rate's schedule",
        Logging(event="killed", layout="packs", resume=True, callbacks=("score", "plain", "metrics", "checkpoint")),
        _resumes,
    ),
    Named(
        "`batch/batch_step` with a number for `log_freq`",
        "counts as if each epoch had a multiple of `log_freq` batches",
        "is the step that was taken",
        "a curve must not be stretched by how often it is drawn",
        Logging(callbacks=("score", "metrics"), log_freq=2),
        _true_steps,
    ),
    Named(
        "`batch/batch_step` with `initial_epoch`, where the optimizer has taken steps before",
        "begins with 0 again",
        "goes on",
        "a curve must not fold back",
        Logging(event="killed", file="m-{epoch}.weights.h5", weights_only=True, log_freq="batch", data="dataset"),
        _step_goes_on,
    ),
    Named(
        "`epoch/*` where `log_freq` counts batches",
        "is drawn over the run's steps",
        "is drawn over `epoch/epoch`, as it is without `log_freq`",
        "the curves of two runs lie over each other whatever else they log",
        Logging(callbacks=("score", "metrics"), log_freq=2),
        _axis_of_epochs,
    ),
    Named(
        "the monitored metric is not there at the first epoch's end",
        "says nothing, unless it is to save the best only",
        "warns that no save will be marked as the best, and which metrics there are",
        "a misspelt name shows after one epoch",
        Logging(callbacks=("checkpoint", "score")),
        _not_monitored,
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
        "entries, aliases, history, summary and configuration on the server; printed lines, what W&B says, warnings;",
        "how training and `wandb sync` ended. Trainings differ in arguments, the order of callbacks, file names, run",
        'ids, data, second `fit`s, killed, resumed and offline runs. With `layout="packs"`, what a version restores to',
        "is compared. Any difference that is not in this table fails the tests; so does a line that no longer holds.",
        "",
        "| what | stock | lamina | why |",
        "|---|---|---|---|",
        *rows,
        "",
        NOT_COMPARED,
    ]
    return "\n".join(lines)
