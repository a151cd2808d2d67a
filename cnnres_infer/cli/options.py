"""Options shared by several commands."""

import os
from pathlib import Path
from typing import Annotated

import typer

# As in `cnnres_infer.engines.nvidia.device`, which is too slow to import for every command.
_DEVICE = "CNNRES_INFER_DEVICE"


def _select_device(number: int | None) -> int | None:
    """Tell the engines of this process which GPU to use."""
    if number is not None:
        os.environ[_DEVICE] = str(number)
    return number


BundleOption = Annotated[
    Path | None, typer.Option(help="Folder of a model bundle; defaults to the built-in one.")
]
BackendOption = Annotated[str, typer.Option(help="Backend: auto, or a name listed by info.")]
PrecisionOption = Annotated[
    str, typer.Option(help="Precision: auto, fp32, fp16, bf16 or int8, if the backend supports it.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Number of threads; defaults to one per usable core.")
]
DeviceOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        envvar=_DEVICE,
        callback=_select_device,
        help="GPU to use, as doctor numbers them; defaults to the first that CUDA lists.",
    ),
]
SelfCheckOption = Annotated[
    bool, typer.Option(help="Verify an engine before its first use on this machine.")
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict-backend", help="Fail instead of falling back to another backend."),
]
SignatureOption = Annotated[
    Path | None,
    typer.Option(metavar="KEY.pub", help="Refuse a bundle that is not signed with this key."),
]
SeriesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--series",
        metavar="N",
        help="Series of a DICOM study to use, by number or UID; may be repeated.",
    ),
]
BValueOption = Annotated[
    float | None,
    typer.Option(
        "--bvalue",
        metavar="N",
        help="b-value to segment in s/mm², by default the nearest to 1000; of a single volume, "
        "the one that it has.",
    ),
]
FormatsOption = Annotated[
    list[str] | None,
    typer.Option("--format", metavar="NAME", help="Output to write; may be repeated."),
]
MaxBytesOption = Annotated[
    str,
    typer.Option(metavar="SIZE", help="Largest file size, decompressed, such as 1G or 500M."),
]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory that the process may use, such as 2G, GPU memory not included.",
    ),
]
TimeoutOption = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Time limit for the whole command.")
]
VolumeMemoryOption = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Memory that the process may use, such as 2G, GPU memory not included. "
        "Batches shrink to fit.",
    ),
]
VolumeTimeoutOption = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", help="Time limit for each volume.")
]
SettleOption = Annotated[
    float,
    typer.Option(metavar="SECONDS", help="A study is complete when it has been quiet this long."),
]
SendToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--send-to",
        metavar="[tls://]HOST:PORT/AET",
        help="Push DICOM results there; may be repeated.",
    ),
]
SendCaOption = Annotated[
    Path | None,
    typer.Option(
        "--send-ca",
        metavar="FILE",
        help="Issuers of archives' certificates; default: the system's.",
    ),
]
SendCertOption = Annotated[
    Path | None,
    typer.Option("--send-cert", metavar="FILE", help="Own certificate, for archives that ask."),
]
SendKeyOption = Annotated[
    Path | None, typer.Option("--send-key", metavar="FILE", help="Key of that certificate.")
]
TitleOption = Annotated[str, typer.Option("--ae-title", metavar="AET", help="Own AE title.")]
MetricsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where figures for Prometheus go; default: metrics.prom."),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace existing outputs; those of a volume in other formats are deleted.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print timings, and the tracebacks of errors.")
]
