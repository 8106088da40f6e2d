"""What all subcommands share: the app, common options, and how an error becomes a message and an exit code."""

from __future__ import annotations

import functools
import gc
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer

from lamina.cli.output import clean, say
from lamina.errors import InvalidInputError, LaminaError, StorageError

#: Exit code → meaning; those of errors are the ``exit_code`` of `lamina.errors`.
EXIT_CODES = {
    0: "done",
    1: "cancelled at the prompt, or an unexpected error",
    2: "wrong usage or input; nothing was changed",
    3: "a repository, snapshot, alias or file does not exist",
    4: "damaged data",
    5: "the data needs a newer lamina",
    6: "the operating system, or a bucket, refused: disk full, no permission, …",
    7: "W&B refused or was not reachable",
    130: "stopped by Ctrl-C; everything committed stays",
}
INTERRUPTED = 130
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
SOURCES = (
    "DIR, DIR@ALIAS, DIR@SERIES:ALIAS (ALIAS may be a number, an id, latest, best or epoch_N), "
    "the same in a bucket (s3://BUCKET/PREFIX@ALIAS, gs://, az://, file:///), "
    "a checkpoint file, an artifact directory, or wandb:ENTITY/PROJECT/NAME:ALIAS."
)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCES, show_default=False)]
Directory = Annotated[str, typer.Argument(metavar="REPOSITORY", help="Directory of a repository.", show_default=False)]
NewDirectory = Annotated[
    str,
    typer.Argument(metavar="REPOSITORY", help="Directory of the repository; made if it is new.", show_default=False),
]
Aliases = Annotated[
    list[str] | None, typer.Option("--alias", metavar="NAME", help="A name for the snapshot; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; sizes in bytes.")]

app = typer.Typer(
    name="lamina",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: "
    + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    + ".\n\nLAMINA_DEBUG=1 shows the traceback of an error.",
)

_Function = TypeVar("_Function", bound=Callable[..., None])


def verb(name: str, *, example: str, keys: str) -> Callable[[_Function], _Function]:
    """Register a command; ``keys`` documents what ``--json`` prints."""

    def register(function: _Function) -> _Function:
        epilog = f"Example: {example}\n\n--json: {keys}"
        app.command(name, help=_unwrapped(function.__doc__ or ""), epilog=epilog)(_guarded(function))
        return function

    return register


def size_of(option: str, text: str) -> int:
    """Bytes of an option such as ``10GB``; decimal units, as `human` shows them."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text)
    if not found or found[2].lower() not in _SIZES:
        raise InvalidInputError(f"{option} takes a size such as 200MB. Received: {text!r}")
    return int(float(found[1]) * _SIZES[found[2].lower()])


def _unwrapped(text: str) -> str:
    """Paragraphs without the line breaks of the source."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def main() -> None:
    """Run the command line; ends with `SystemExit`."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (closed by the shell)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for a terminal that cannot show a character of a name
    try:
        app(prog_name="lamina")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _leave()
        raise


def _leave() -> None:
    """Exit at once: a normal exit would wait for the transfers of Python and wandb, which Ctrl-C has cancelled."""
    gc.collect()  # deletes temporary folders together with their owners
    _flush_or_discard()
    os._exit(INTERRUPTED)


def _version(wanted: bool) -> None:
    if wanted:
        from lamina.version import __version__

        print(f"lamina {__version__}")
        raise typer.Exit


@app.callback()
def _lamina(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Inspect, move, verify and prune Keras checkpoints."""


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        with _reporting():
            function(*args, **kwargs)
            sys.stdout.flush()  # here, so that a full disk behind a redirection is reported

    return run


@contextmanager
def _reporting() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _fail("interrupted; everything committed stays", INTERRUPTED)
        except Exception as error:
            _fail(*_sentence(error))


def _sentence(error: Exception) -> tuple[str, int]:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        text = f"{where}{error.strerror}" if error.strerror else str(error)
        return text, getattr(error, "exit_code", StorageError.exit_code)
    if isinstance(error, LaminaError):
        return str(error), error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name in ("wandb", "keras", "requests"):
        return f"this command needs the package {error.name}: pip install {error.name}", LaminaError.exit_code
    if isinstance(error, ImportError) and (error.name or "").startswith("lamina"):
        return f"lamina is not fully installed: {error}", LaminaError.exit_code
    unexpected = f"unexpected {type(error).__name__}: {error} (LAMINA_DEBUG=1 shows where)"
    return unexpected, LaminaError.exit_code


def _fail(sentence: str, code: int) -> None:
    if os.environ.get("LAMINA_DEBUG") == "1":
        traceback.print_exc()
    say(f"lamina: {clean(sentence)}")
    _flush_or_discard()
    raise typer.Exit(code)


def _flush_or_discard() -> None:
    """Flush now: Python flushes again at its end, and on an error would change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"lamina: warning: {clean(str(message))}")
