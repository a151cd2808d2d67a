"""Results stored in the user's cache, so that they need not be computed again."""

import json
from pathlib import Path
from typing import Any

from cnnres_infer.host.atomic import write_all
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.host.digest import json_digest
from cnnres_infer.host.files import read_regular

_MAX_BYTES = 1 << 22


class ResultCache:
    """Values in files of their own, looked up by the conditions under which they hold.

    Conditions and values are anything that JSON can represent. All values can
    be computed again, so a damaged file counts as missing, and a cache that
    cannot be used counts as empty.

    Parameters
    ----------
    folder
        Name of the folder in the user's cache.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def get(self, conditions: Any) -> Any:
        """Return the value stored for these conditions; None if there is none."""
        try:
            found = _read(self.path(conditions))
        except OSError:
            return None
        return None if found is None else found[1]

    def put(self, conditions: Any, value: Any) -> str:
        """Store a value, replacing an earlier one.

        Parameters
        ----------
        conditions
            The conditions under which the value holds.
        value
            The value.

        Returns
        -------
        str
            Why the value could not be stored; empty if it was.
        """
        content = json.dumps({"conditions": conditions, "value": value}, indent=2)
        try:
            write_all({self.path(conditions): content.encode()}, overwrite=True)
        except OSError as error:
            return str(error)
        return ""

    def entries(self) -> list[tuple[Any, Any]]:
        """Return all conditions with their values, in no particular order."""
        try:
            paths = list(cache_folder(self._folder).glob("*.json"))
        except OSError:
            return []
        return [found for path in paths if (found := _read(path)) is not None]

    def path(self, conditions: Any) -> Path:
        """File of the value for these conditions, in a folder that is created if needed.

        Raises
        ------
        OSError
            If the cache cannot be used.
        """
        return cache_folder(self._folder) / _name(conditions)


def _name(conditions: Any) -> str:
    return f"{json_digest(conditions)[:32]}.json"


def _read(path: Path) -> tuple[Any, Any] | None:
    """Read conditions and value; None if the file is missing, damaged or misnamed."""
    try:
        content = json.loads(read_regular(path, _MAX_BYTES))
        conditions, value = content["conditions"], content["value"]
        return (conditions, value) if path.name == _name(conditions) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
