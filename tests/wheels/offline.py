"""Running commands as on a machine without internet, in an empty environment."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# For where the system cannot take the network away: no Python process opens a connection.
_GUARD = """
import sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise PermissionError(f"no network here: {event} {arguments[1:]}")
sys.addaudithook(guard)
"""


@functools.cache
def unshared() -> tuple[str, ...]:
    """The command that takes the network away from another one, if the system lets it."""
    command = ("unshare", "--map-root-user", "--net")
    if shutil.which(command[0]) is None:
        return ()
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if done.returncode == 0 else ()


def run_offline(home: Path, *command: Path | str) -> subprocess.CompletedProcess[str]:
    """Run a command without network, and with nothing in its environment but a home."""
    home.mkdir(exist_ok=True)
    (home / "sitecustomize.py").write_text(_GUARD)
    kept = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT", "TEMP") if key in os.environ}
    guard = {} if unshared() else {"PYTHONPATH": str(home)}
    return subprocess.run(
        [*unshared(), *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env={**kept, **guard, "HOME": str(home), "USERPROFILE": str(home), "LC_ALL": "C.UTF-8"},
    )


def check_offline(home: Path) -> None:
    """Check that commands run so reach no network, not even their own machine's."""
    code = "import socket; socket.create_connection(('127.0.0.1', 9), timeout=2)"
    done = run_offline(home, sys.executable, "-c", code)
    assert done.returncode == 1
    if "Network is unreachable" not in done.stderr and "no network here" not in done.stderr:
        pytest.fail(f"the network is there: {done.stderr}")
