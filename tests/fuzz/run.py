"""Fuzzing with atheris: ``python tests/fuzz/run.py [CORPUS] [libFuzzer's options]``."""

import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=["cnnres_infer"]):
    from cnnres_infer.readers import READERS
    from tests.fuzz.harness import check, seeds

    # Readers are imported late, but are to be instrumented as well.
    for reader in READERS.values():
        assert reader.functions


def main() -> None:
    """Write the seeds to the corpus and start fuzzing."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    folder = Path(given[0] if given else tempfile.mkdtemp(prefix="cnnres-corpus-"))
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds():
        (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, str(folder)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
