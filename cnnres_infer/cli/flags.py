"""What the command line calls the arguments that messages of the library name.

The library says ``"choose another `backend`"`` or ``"add `overwrite=True`"``,
which the command line prints as ``--backend`` and ``--overwrite``.
"""

import re

FLAGS = {
    "backend": "--backend",
    "brain_mask": "--brain-mask",
    "bundle": "--bundle",
    "flair": "--flair",
    "max_bytes": "--max-bytes",
    "max_memory": "--max-memory",
    "max_voxels": "--max-voxels",
    "overwrite": "--overwrite",
    "precision": "--precision",
    "reference": "--reference",
    "sms": "--sm",
    "threads": "--threads",
    "timeout": "--timeout",
    "volume": "VOLUME",
}
_NAMED = re.compile(rf"`({'|'.join(FLAGS)})(?:=([^`]*))?`")


def with_flags(message: str) -> str:
    """A message of the library, with flags in place of the arguments that it names."""
    return _NAMED.sub(_flag, message)


def _flag(named: re.Match[str]) -> str:
    flag, value = FLAGS[named[1]], (named[2] or "True").strip('"')
    return flag if value == "True" else f"{flag} {value}"
