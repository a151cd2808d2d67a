"""Fetches the viewer of the HTML report from the npm registry when the package is built.

The version and its hashes stand in ``source.json`` beside the place of the file. A
file with the right hash is not fetched again.
"""

import base64
import hashlib
import io
import json
import os
import tarfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("cnnres_infer", "outputs", "assets", "niivue")
# Set to anything, a build without the viewer fails.
REQUIRED = "CNNRES_REQUIRE_VIEWER"
# npm's own variable for a mirror; what a mirror answers is checked all the same.
REGISTRY = "NPM_CONFIG_REGISTRY"

_DEFAULT_REGISTRY = "https://registry.npmjs.org"
_TIMEOUT_S = 30
_MAX_BYTES = 1 << 25


class ViewerError(RuntimeError):
    """The viewer could not be fetched, or is not the one that is expected."""


class ViewerHook(BuildHookInterface):  # type: ignore[type-arg]
    """Fetches the viewer before the files of a wheel or sdist are gathered."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch the viewer; go on without it if that fails, unless it is required."""
        try:
            fetch_viewer(Path(self.root) / FOLDER, os.environ.get(REGISTRY) or _DEFAULT_REGISTRY)
        except ViewerError as error:
            if os.environ.get(REQUIRED):
                raise
            self.app.display_warning(
                f"the HTML report of this build has NO interactive viewer: {error}. Build again "
                f"with access to the npm registry; {REQUIRED}=1 makes this an error."
            )


def fetch_viewer(folder: Path, registry: str) -> Path:
    """Make sure that the viewer is in its folder.

    Parameters
    ----------
    folder
        Folder with ``source.json``, which gets the file.
    registry
        Address of an npm registry.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ViewerError
        If it cannot be fetched, or its hash is another; nothing is written.
    """
    source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    target = folder / Path(source["member"]).name
    if target.is_file() and _sha256(target.read_bytes()) == source["sha256"]:
        return target
    package, version = source["package"], source["version"]
    name = package.rpartition("/")[2]
    archive = _download(f"{registry.rstrip('/')}/{package}/-/{name}-{version}.tgz")
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if f"sha512-{digest}" != source["integrity"]:
        raise ViewerError(f"{package} {version} from {registry} is not the package of that version")
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        member = members.extractfile(source["member"])
        content = b"" if member is None else member.read()
    if _sha256(content) != source["sha256"]:
        raise ViewerError(f"{source['member']} of {package} {version} has another hash")
    unfinished = target.with_suffix(f".{os.getpid()}.part")
    unfinished.write_bytes(content)
    unfinished.replace(target)
    return target


def _download(address: str) -> bytes:
    if not address.startswith(("https://", "http://")):
        raise ViewerError(f"{address} is no web address; correct {REGISTRY}")
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            content: bytes = answer.read(_MAX_BYTES + 1)
    except (OSError, ValueError, HTTPException) as error:
        raise ViewerError(f"{address} cannot be read ({error})") from error
    if len(content) > _MAX_BYTES:
        raise ViewerError(f"{address} has more than {_MAX_BYTES} bytes")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
