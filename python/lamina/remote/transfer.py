"""Downloads of byte ranges from a bucket."""

from __future__ import annotations

from lamina.errors import CorruptDataError, LaminaError, NotFoundError, StorageError
from lamina.fetching import transfer
from lamina.fetching.transfer import Range
from lamina.remote.store import Store


class Transfer(transfer.Transfer):
    """Downloads from one bucket."""

    #: Each of them was repeated by obstore already.
    attempts = 3

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def _go_on(self, part: Range, done: int) -> tuple[int, str | None]:
        try:
            block = self._store.get_range(part.name, part.offset + done, part.length - done)
        except NotFoundError as error:
            raise CorruptDataError(f"{part.name} is missing in {self._store.url}") from error
        except StorageError as error:
            return done, str(error)
        try:
            with part.path.open("r+b") as file:
                file.seek(part.offset + done)
                file.write(block)
        except OSError as error:
            raise StorageError(f"cannot write {part.path}: {error.strerror or error}") from error
        self._advance(len(block))
        done += len(block)
        return done, None if done == part.length else "it is shorter than it should be"

    def _given_up(self, part: Range, trouble: str) -> LaminaError:
        return StorageError(trouble)
