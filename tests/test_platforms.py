"""What one system lacks is used behind a guard: by the source, and by running without it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cnnres_infer"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Modules and attributes that Windows, macOS or Linux lacks.
MODULES = {
    "crypt", "curses", "fcntl", "grp", "msvcrt", "nis", "posix", "pty", "pwd", "readline",
    "resource", "spwd", "syslog", "termios", "tty", "winreg", "winsound", "_winapi",
}  # fmt: skip
ATTRIBUTES = {
    "os": {
        "O_BINARY", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_TMPFILE",
        "chown", "chroot", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid",
        "getloadavg", "getpgid", "getuid", "killpg", "lchown", "memfd_create", "mkfifo", "nice",
        "posix_fadvise", "posix_spawn", "pread", "pwrite", "register_at_fork",
        "sched_getaffinity", "sched_setaffinity", "sendfile", "setsid", "statvfs", "sysconf",
        "uname", "waitid",
    },
    "signal": {
        "ITIMER_REAL", "SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2",
        "alarm", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait",
    },
    "time": {"clock_gettime", "tzset"},
    "ctypes": {"WinDLL", "windll", "OleDLL"},
}  # fmt: skip
GUARDS = ("sys.platform", "os.name", "platform.system()", "hasattr(")


def needs_guard(node: ast.AST) -> str:
    """What a node uses that some system lacks; empty if nothing."""
    if isinstance(node, ast.Import):
        found = [each.name for each in node.names if each.name.partition(".")[0] in MODULES]
        return ", ".join(found)
    if isinstance(node, ast.ImportFrom):
        return str(node.module) if str(node.module).partition(".")[0] in MODULES else ""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        known = node.attr in ATTRIBUTES.get(node.value.id, ())
        return f"{node.value.id}.{node.attr}" if known else ""
    return ""


def is_guard(test: ast.expr, constants: set[str]) -> bool:
    text = ast.unparse(test)
    names = {each.id for each in ast.walk(test) if isinstance(each, ast.Name)}
    return any(guard in text for guard in GUARDS) or bool(names & constants)


def catches_absence(node: ast.Try) -> bool:
    caught = " ".join(ast.unparse(each.type) for each in node.handlers if each.type)
    return any(name in caught for name in ("ImportError", "AttributeError"))


def unguarded(source: str) -> list[str]:
    """Uses of what some system lacks without asking which system it is, or for the thing."""
    tree = ast.parse(source)
    # Module constants such as _WINDOWS = sys.platform == "win32".
    constants = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and is_guard(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def visit(nodes: list[ast.AST], guarded: bool) -> Iterator[str]:
        for node in nodes:
            if not guarded and (what := needs_guard(node)):
                yield f"line {getattr(node, 'lineno', 0)}: {what}"
            inside = guarded
            if isinstance(node, (ast.If, ast.IfExp)) and is_guard(node.test, constants):
                inside = True
                # `if sys.platform == "win32": return` guards what follows.
                if isinstance(node, ast.If) and isinstance(node.body[-1], (ast.Return, ast.Raise)):
                    guarded = True
            if isinstance(node, ast.Try) and catches_absence(node):
                inside = True
            yield from visit(list(ast.iter_child_nodes(node)), inside)

    return list(visit([tree], False))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_a_system_lacks_is_used_without_a_guard(path: Path) -> None:
    assert not unguarded(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl", ["line 1: fcntl"]),
        ("from resource import getrusage", ["line 1: resource"]),
        ("def f():\n    import pwd", ["line 2: pwd"]),
        ("os.fork()", ["line 1: os.fork"]),
        ("x = os.geteuid() if ready else 0", ["line 1: os.geteuid"]),
        ("try:\n    import fcntl\nexcept ValueError:\n    pass", ["line 2: fcntl"]),
        ("def f():\n    if ready:\n        return\n    os.getuid()", ["line 4: os.getuid"]),
        ("def f():\n    if sys.platform == 'win32':\n        return\n    os.getuid()", []),
        ("def f():\n    if sys.platform == 'win32':\n        return\ndef g():\n    os.getuid()",
         ["line 5: os.getuid"]),
        ("if sys.platform == 'win32':\n    import msvcrt\nelse:\n    import fcntl", []),
        ("if hasattr(os, 'fork'):\n    os.fork()", []),
        ("try:\n    import resource\nexcept ImportError:\n    pass", []),
        ("_WINDOWS = sys.platform == 'win32'\nif _WINDOWS:\n    ctypes.WinDLL('x')", []),
        ("getattr(os, 'O_BINARY', 0)", []),
    ],
)  # fmt: skip
def test_the_scan_knows_guards(source: str, found: list[str]) -> None:
    assert unguarded(source) == found


# Removes what Windows lacks, and says that it is Windows once the standard library is loaded.
WITHOUT_POSIX = """
import sys, types
import ctypes, importlib, json, logging, multiprocessing, os, pathlib, pkgutil, platform
import shutil, signal, ssl, subprocess, tempfile, threading, zipfile
import numpy, typer, rich.console, rich.progress
for name in sys.argv[1].split(","):
    sys.modules[name] = None
for name in sys.argv[2].split(","):
    for module in (os, signal):
        if hasattr(module, name):
            delattr(module, name)
msvcrt = types.ModuleType("msvcrt")
sys.modules["msvcrt"], sys.platform = msvcrt, "win32"
import cnnres_infer
for module in pkgutil.walk_packages(cnnres_infer.__path__, "cnnres_infer."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="stands in for Windows")
def test_every_module_is_imported_without_what_windows_lacks() -> None:
    posix = sorted(MODULES - {"msvcrt", "winreg", "winsound", "_winapi", "posix"})
    lacking = sorted((ATTRIBUTES["os"] | ATTRIBUTES["signal"]) - {"O_BINARY", "getpgid"})
    run = [sys.executable, "-c", WITHOUT_POSIX, ",".join(posix), ",".join(lacking)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > len(SOURCES) / 2
