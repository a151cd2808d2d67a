"""Replacing the names of arguments in the library's messages with command-line flags.

For ``"choose another `backend`"`` or ``"add `overwrite=True`"`` in a message,
the command line prints ``--backend`` or ``--overwrite``.
"""

import re

FLAGS = {
    "adc": "--adc",
    "ae_title": "--ae-title",
    "allow": "--allow",
    "b0": "--b0",
    "backend": "--backend",
    "brain_mask": "--brain-mask",
    "bundle": "--bundle",
    "bvalue": "--bvalue",
    "flair": "--flair",
    "host": "--host",
    "identify": "--identify",
    "jobs": "--jobs",
    "max_associations": "--max-associations",
    "max_bytes": "--max-bytes",
    "max_memory": "--max-memory",
    "max_object": "--max-object",
    "max_pdu": "--max-pdu",
    "max_voxels": "--max-voxels",
    "overwrite": "--overwrite",
    "overlay": "--overlay",
    "port": "--port",
    "precision": "--precision",
    "probabilities": "--prob",
    "reference": "--reference",
    "retry": "--retry",
    "send_to": "--send-to",
    "series": "--series",
    "settle": "--settle",
    "shard": "--shard",
    "sms": "--sm",
    "threads": "--threads",
    "timeout": "--timeout",
    "volume": "VOLUME",
}
_NAMED = re.compile(rf"`({'|'.join(FLAGS)})(?:=([^`]*))?`")


def with_flags(message: str) -> str:
    """Replace the arguments named in a message of the library with flags."""
    return _NAMED.sub(_flag, message)


def _flag(named: re.Match[str]) -> str:
    flag, value = FLAGS[named[1]], (named[2] or "True").strip('"')
    return flag if value == "True" else f"{flag} {value}"
