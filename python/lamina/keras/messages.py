"""Prints messages where Keras prints: to standard output or to the log."""

from __future__ import annotations

import logging
import sys

import keras


def print_message(message: str) -> None:
    """Print a message as Keras prints its own."""
    if not keras.config.is_interactive_logging_enabled():
        logging.getLogger("absl").info(message)
        return
    try:
        sys.stdout.write(f"{message}\n")
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(f"{message}\n".encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
