"""One hash for whatever JSON can hold."""

import hashlib
import json
from typing import Any


def json_digest(value: Any) -> str:
    """SHA-256 of a value as JSON, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
