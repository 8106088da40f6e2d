"""The objects of one bucket, below one prefix. Only this module imports obstore.

Credentials and endpoints come from the conventions of the stores (``AWS_ENDPOINT_URL``, a profile, the role of the
machine, …). They are neither kept nor shown.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from lamina.errors import CorruptDataError, InvalidInputError, LaminaError, NotFoundError, StorageError
from lamina.remote.address import Address

#: A file over this size is sent in parts: a single request of that size runs into time limits.
MULTIPART_BYTES = 16 << 20
PART_BYTES = 8 << 20
PARTS_AT_ONCE = 4
#: A store that is busy, or away for a moment, is asked again for about half a minute.
RETRY = {
    "max_retries": 8,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
    "retry_timeout": timedelta(minutes=2),
}
#: Of a conditional write whose connection breaks.
_ATTEMPTS, _PAUSE = 4, 0.1
_ANSWERED = "Server returned"
_CLIENT = {"connect_timeout": timedelta(seconds=15), "timeout": timedelta(minutes=5)}
_SHOWN = 300


@dataclass(frozen=True)
class Entry:
    """An object that a listing tells of."""

    name: str
    size: int
    etag: str | None


class Store:
    """Names are relative to the prefix of the address. Each request is repeated where that can help."""

    def __init__(self, address: Address, *, make: bool = False) -> None:
        self.address = address
        with self._explained("open"):
            self._store: Any = _opened(address, make)

    @property
    def url(self) -> str:
        return self.address.url

    def get(self, name: str) -> bytes | None:
        """The bytes of a small object; None if there is none of that name."""
        import obstore

        with self._explained("read", name):
            try:
                return bytes(obstore.get(self._store, name).bytes())
            except FileNotFoundError as error:
                self._refuse_missing_bucket(error)
                return None

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Some bytes of an object.

        Raises:
            NotFoundError: if there is none of that name.
        """
        import obstore

        with self._explained("read", name):
            return bytes(obstore.get_range(self._store, name, start=offset, length=length))

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object, whatever stands there."""
        import obstore

        large = isinstance(content, Path) and content.stat().st_size > MULTIPART_BYTES
        with self._explained("write", name):
            obstore.put(
                self._store,
                name,
                content,
                use_multipart=large,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    def create(self, name: str, content: bytes) -> bool:
        """Write an object only if there is none of that name; False if there is one, or may be one in a moment.

        Stores answer 412 if there is one, and S3 also 409 while another write of it is under way: obstore does not tell
        them apart. The one that is there may also be this one, if an answer was lost. So who gets False looks.
        """
        return self._put_if(name, content, "create")

    def replace(self, name: str, content: bytes, etag: str | None) -> bool:
        """Write over the object that has this ETag; False if it is another one now, which may be this one."""
        if self.address.scheme == "file":  # a folder has no such condition: the last one wins
            etag = None
        return self._put_if(name, content, {"e_tag": etag} if etag else "overwrite")

    def _put_if(self, name: str, content: bytes, mode: Any) -> bool:
        """obstore does not repeat such a write where the connection breaks, for it cannot look what has arrived."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

        with self._explained("write", name):
            for attempt in range(_ATTEMPTS):
                try:
                    obstore.put(self._store, name, content, mode=mode, use_multipart=False)
                    return True
                except (AlreadyExistsError, PreconditionError):
                    return False
                except GenericError as error:
                    if _ANSWERED in str(error) or attempt == _ATTEMPTS - 1:
                        raise
                time.sleep(_PAUSE * 2**attempt)
        return False

    def list(self, prefix: str) -> dict[str, Entry]:
        """The objects below a prefix, by what follows it in their names."""
        import obstore

        found: dict[str, Entry] = {}
        with self._explained("list", prefix):
            for page in obstore.list(self._store, prefix=prefix, chunk_size=1000):
                for one in page:
                    name = one["path"].rpartition("/")[2]
                    if one["path"] == f"{prefix}/{name}":
                        found[name] = Entry(name, one["size"], one["e_tag"])
        return found

    def delete(self, name: str) -> None:
        """Delete an object, if there is one."""
        import obstore

        with self._explained("delete", name), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def _refuse_missing_bucket(self, error: Exception) -> None:
        if _MISSING_BUCKET.search(str(error)):
            raise error

    @contextlib.contextmanager
    def _explained(self, doing: str, name: str = "") -> Iterator[None]:
        """Say in one sentence what a store did not do, and what helps; without what obstore knows of credentials."""
        try:
            yield
        except LaminaError:
            raise
        except Exception as error:
            explained = _explanation(self.address, doing, name, error)
        else:
            return
        raise explained from None  # a traceback would show the error of obstore, with all its details


_SHORT = re.compile("416 Range Not Satisfiable|range was invalid", re.IGNORECASE)
_MISSING_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|The specified bucket does not exist")
_EXPIRED = re.compile("ExpiredToken|token .{0,40}expired|TokenRefreshRequired", re.IGNORECASE)
#: Without credentials obstore asks the machine who it is; few machines have a role.
_NOBODY = re.compile("169.254.169.254|metadata", re.IGNORECASE)
_REFUSED = re.compile("InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|AuthenticationFailed|CredentialsNotLoaded")


def _explanation(address: Address, doing: str, name: str, error: Exception) -> LaminaError:
    text, kind = str(error), type(error).__name__
    what = f"{address.url}/{name}" if name else address.url
    if _MISSING_BUCKET.search(text):
        bucket = f"{address.scheme}://{address.place}"
        return NotFoundError(f"there is no bucket {bucket}; make it first, or mend the address")
    if _SHORT.search(text):
        return CorruptDataError(f"{what} is shorter than it should be")
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{what} does not exist")
    if _EXPIRED.search(text):
        return StorageError(f"cannot {doing} {what}: the credentials have expired; renew them")
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or _REFUSED.search(text) or _NOBODY.search(text):
        return StorageError(f"cannot {doing} {what}: no permission; {_CREDENTIALS[address.scheme]}")
    if isinstance(error, NotImplementedError):
        return StorageError(f"cannot {doing} {what}: the store, or its settings, allow no conditional writes")
    return StorageError(f"cannot {doing} {what}: {_first_sentence(text) or kind}")


_CREDENTIALS = {
    "s3": "expected credentials that may read and write there, as in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in "
    "AWS_PROFILE (with boto3 installed), or in the role of the machine",
    "gs": "expected credentials that may read and write there, as in GOOGLE_APPLICATION_CREDENTIALS",
    "az": "expected credentials that may read and write there, as in AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY",
    "file": "this user may not read or write there",
}


def _first_sentence(text: str) -> str:
    """What obstore says first; what follows a question mark may be a signature."""
    line = text.partition("\n")[0].partition(": <")[0]
    return re.sub(r"\?[^\s:]*", "", line)[:_SHOWN]


def check_installed() -> None:
    """Refuse addresses of buckets while obstore is missing.

    Raises:
        InvalidInputError: if it is.
    """
    if importlib.util.find_spec("obstore") is None:
        raise InvalidInputError("buckets need the package obstore: pip install obstore")


def _opened(address: Address, make: bool) -> Any:
    check_installed()
    from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

    if address.scheme == "file":
        folder = Path(address.prefix)
        if not make and not folder.is_dir():
            raise NotFoundError(f"{address.url} does not exist")
        return LocalStore(folder, mkdir=True)
    options: dict[str, Any] = {"client_options": dict(_CLIENT), "retry_config": RETRY}
    if address.prefix:
        options["prefix"] = address.prefix
    if address.scheme == "gs":
        return GCSStore(address.place, **options)
    if address.scheme == "az":
        return AzureStore(address.place, **options)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint:
        options["endpoint"] = endpoint
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
    return S3Store(address.place, **options, **_of_profile())


#: Where one of these says who we are, obstore knows how to ask.
_KNOWN_TO_OBSTORE = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)


def _of_profile() -> dict[str, Any]:
    """Profiles and files in ~/.aws are boto3's business."""
    if any(os.environ.get(name) for name in _KNOWN_TO_OBSTORE):
        return {}
    if importlib.util.find_spec("boto3") is None:
        if os.environ.get("AWS_PROFILE"):
            raise InvalidInputError("AWS_PROFILE is set, and profiles need the package boto3: pip install boto3")
        return {}
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    if session.get_credentials() is None:
        return {}
    region = {"region": session.region_name} if session.region_name else {}
    return {"credential_provider": Boto3CredentialProvider(session), **region}
