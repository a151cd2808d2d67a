"""Hashing of values that JSON can represent."""

import hashlib
import json
from typing import Any


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a value as JSON, in hexadecimal, regardless of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
