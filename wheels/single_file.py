"""Make one file of the gathered wheels, which starts with ``python3 cnnres-infer.pyz``.

    python wheels/single_file.py [--extra openvino] [--from FOLDER] [--out cnnres-infer.pyz]
                                 [--python-version 3.12] [--platform manylinux_2_28_x86_64]

It is for the platform and the version of Python that the wheels were gathered for, and
needs shiv (https://shiv.readthedocs.io) where it is made, but no internet.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
if not __package__:  # run as a script
    sys.path.insert(0, str(HERE.parent))

from wheels.gather import EXTRAS, GatherError, run_pip, target_options  # noqa: E402
from wheels.install import InstallError, check_files, locks_of  # noqa: E402

_PROGRAM = "cnnres-infer"


def make_file(
    folder: Path,
    out: Path,
    extras: Sequence[str] = ("cpu",),
    python_version: str | None = None,
    platform: str | None = None,
) -> str:
    """Make one file of gathered wheels; the same Python makes the same bytes of them.

    Parameters
    ----------
    folder
        The folder that `wheels.gather.gather` filled.
    out
        The file to write.
    extras, python_version, platform
        As for `wheels.gather.gather`.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    InstallError
        If a gathered file was altered, or none was gathered for an extra.
    GatherError
        If the wheels cannot be installed, or shiv is missing or fails.
    """
    if find_spec("shiv") is None:
        raise GatherError("shiv is not installed: pip install shiv")
    check_files(folder)
    locks = locks_of(folder, list(extras))
    with tempfile.TemporaryDirectory() as name:
        site = Path(name, "site")
        arguments = ["install", "--isolated", "--no-index", f"--find-links={folder}"]
        arguments += ["--require-hashes", "--no-compile", f"--target={site}"]
        arguments += [f"--requirement={lock}" for lock in locks]
        run_pip(
            [*arguments, *target_options(python_version, platform)],
            "the wheels cannot be installed; gather them for this Python and platform",
            environment={**os.environ, "PIP_CONFIG_FILE": os.devnull},
        )
        pack(site, out)
    return hashlib.sha256(out.read_bytes()).hexdigest()


def pack(site: Path, out: Path) -> None:
    """Pack an installed ``cnnres-infer`` with all that is beside it into one file.

    Raises
    ------
    GatherError
        If shiv fails.
    """
    # Their first lines name the Python that packs, and nothing here starts them.
    for program in (site / "bin").glob("*"):
        program.unlink()
    command = [sys.executable, "-m", "shiv", f"--console-script={_PROGRAM}", "--compressed"]
    command += ["--reproducible", f"--site-packages={site}", f"--output-file={out}"]
    if subprocess.run(command, check=False).returncode != 0:
        raise GatherError("shiv could not make the file")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description="Make one file of the gathered wheels.")
    parser.add_argument(
        "--extra", choices=EXTRAS, action="append", help="what to include; default: cpu"
    )
    parser.add_argument(
        "--from", type=Path, default=HERE, dest="folder", help="folder that gather.py filled"
    )
    parser.add_argument("--out", type=Path, default=Path(f"{_PROGRAM}.pyz"), help="file to write")
    parser.add_argument("--python-version", help="of the target; default: this one")
    parser.add_argument("--platform", help="of the target; default: this one")
    options = parser.parse_args(arguments)
    target = (options.python_version, options.platform)
    try:
        digest = make_file(options.folder, options.out, options.extra or ["cpu"], *target)
    except (InstallError, GatherError, OSError) as error:
        sys.stderr.write(f"single_file: {error}\n")
        return 1
    megabytes = options.out.stat().st_size / 1e6
    sys.stdout.write(f"wrote {options.out}, {megabytes:.0f} MB; its SHA-256: {digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
