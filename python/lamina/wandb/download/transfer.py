"""Downloads of byte ranges of an artifact's files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import requests
import urllib3

from lamina.errors import ArtifactError, StorageError
from lamina.fetching import transfer
from lamina.fetching.transfer import Range

TIMEOUT = (15.0, 60.0)  # to connect, and between two bytes
_BLOCK = 256 << 10
_URLS_AT_ONCE = 100
_LATER = {408, 425, 429, 500, 502, 503, 504}
_EXPIRED = {400, 401, 403}  # what object stores answer to an old signature


class Transfer(transfer.Transfer):
    """Downloads from one artifact."""

    def __init__(self, artifact: Any) -> None:
        super().__init__()
        self._artifact = artifact
        self._urls: dict[str, str] = {}
        self._sessions = threading.local()
        self._asking = threading.Lock()

    def _prepare(self, names: Sequence[str]) -> None:
        self._find_urls([name for name in names if name not in self._urls])

    def _given_up(self, part: Range, trouble: str) -> ArtifactError:
        return ArtifactError(f"cannot download {part.name} of {self._artifact.name}: {trouble}")

    def _find_urls(self, names: Sequence[str]) -> None:
        try:
            for start in range(0, len(names), _URLS_AT_ONCE):
                some = list(names[start : start + _URLS_AT_ONCE])
                for file in self._artifact.files(names=some, per_page=len(some)):
                    self._urls[file.name] = file.direct_url
        except Exception as error:
            raise ArtifactError(f"cannot get the URLs of the files of {self._artifact.name}: {error}") from error
        lost = [name for name in names if not self._urls.get(name)]
        if lost:
            raise ArtifactError(f"the artifact {self._artifact.name} has no file {lost[0]}")

    def _renew(self, name: str, expired: str) -> None:
        with self._asking:
            if self._urls[name] == expired:
                self._find_urls([name])

    def _go_on(self, part: Range, done: int) -> tuple[int, str | None]:
        url = self._urls[part.name]
        first, last = part.offset + done, part.offset + part.length - 1
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        try:
            with self._session().get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                status = response.status_code
                if status in _EXPIRED:
                    self._renew(part.name, url)
                if status in _EXPIRED or status in _LATER:
                    return done, f"the server answered {status}"
                if status not in (200, 206):
                    raise ArtifactError(f"cannot download {part.name}: the server answered {status}")
                skip = first if status == 200 else 0  # the server ignored the range and sends the whole file
                return self._store(part, done, response.raw, skip)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return done, str(error)

    def _store(self, part: Range, done: int, body: Any, skip: int) -> tuple[int, str | None]:
        try:
            with part.path.open("r+b") as file:
                file.seek(part.offset + done)
                while done < part.length and not self._failed.is_set():
                    try:
                        block = body.read(min(_BLOCK, skip or part.length - done), decode_content=False)
                    except (urllib3.exceptions.HTTPError, OSError) as error:
                        return done, str(error)
                    if not block:
                        return done, "the connection ended early"
                    if skip:
                        skip -= len(block)
                        continue
                    file.write(block)
                    done += len(block)
                    self._advance(len(block))
        except OSError as error:
            raise StorageError(f"cannot write {part.path}: {error}") from error
        return done, None

    def _session(self) -> requests.Session:
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
        session: requests.Session = self._sessions.session
        return session
