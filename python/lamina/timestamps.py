"""Times as the format writes them."""

from datetime import datetime, timezone


def now() -> str:
    """RFC 3339, UTC, milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
