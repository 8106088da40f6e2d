"""A loopback W&B server for tests: the real client talks to it as it would to the real one."""

from .artifacts import Policy
from .remote import RemoteServer
from .server import API_KEY, Server
from .traffic import Counters, Fault, FileCounter, Operation
from .views import ENTITY, ArtifactView, EntryView, RunView, Store

__all__ = [
    "API_KEY",
    "ENTITY",
    "ArtifactView",
    "Counters",
    "EntryView",
    "Fault",
    "FileCounter",
    "Operation",
    "Policy",
    "RemoteServer",
    "RunView",
    "Server",
    "Store",
]
