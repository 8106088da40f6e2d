"""The installed release."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lamina")
except PackageNotFoundError:  # used from a source tree
    __version__ = "0"
