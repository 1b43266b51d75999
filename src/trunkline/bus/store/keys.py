"""Which keys and values a store takes, and which keys a watcher means. Pure."""

from __future__ import annotations

import re
from typing import Final

from trunkline.errors import BusError

KEY_CHARS: Final = 200
VALUE_BYTES: Final = 512 * 1024

_KEY: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PREFIX: Final = re.compile(r"([A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]*")


def check_key(key: str) -> None:
    """Raises ValueError for a key that no store takes."""
    if len(key) > KEY_CHARS or not _KEY.fullmatch(key):
        raise ValueError(f"key {key!r} of the store: use at most {KEY_CHARS} letters, digits, '-' and '_', and '.'")


def check_prefix(prefix: str) -> None:
    """Raises ValueError for a prefix that no key can have; empty means all keys."""
    if len(prefix) > KEY_CHARS or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"prefix {prefix!r} of the store: no key begins so")


def check_value(key: str, value: bytes) -> None:
    """Raises BusError for a value that is too long."""
    if len(value) > VALUE_BYTES:
        raise BusError(f"the value of {key} has {len(value):,} bytes, more than the store takes ({VALUE_BYTES:,})")


def whole_key(prefix: str) -> bool:
    """Whether a watcher means one key; with an empty prefix, or one that ends with a dot, it means all keys below."""
    return bool(prefix) and not prefix.endswith(".")


def meant(prefix: str, key: str) -> bool:
    """Whether a watcher of `prefix` is given `key`."""
    return key == prefix if whole_key(prefix) else key.startswith(prefix)
