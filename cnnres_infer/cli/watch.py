"""``cnnres-infer watch``."""

from pathlib import Path
from typing import Annotated

import typer

from cnnres_infer.cli.options import (
    BackendOption,
    BundleOption,
    DeviceOption,
    FormatsOption,
    MaxBytesOption,
    MetricsOption,
    OverwriteOption,
    PrecisionOption,
    QuietOption,
    SelfCheckOption,
    SendCaOption,
    SendCertOption,
    SendKeyOption,
    SendToOption,
    SettleOption,
    SignatureOption,
    StrictOption,
    ThreadsOption,
    TitleOption,
    VerboseOption,
    VolumeMemoryOption,
    VolumeTimeoutOption,
)
from cnnres_infer.cli.serving import Line, Model, Open, serve, settings_of


def watch(
    folder: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder in which studies and volumes are put.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the outputs.")],
    settle: SettleOption = 30.0,
    modality: Annotated[str, typer.Option(help="What is segmented: dwi or flair.")] = "dwi",
    formats: FormatsOption = None,
    overwrite: OverwriteOption = False,
    send_to: SendToOption = None,
    send_ca: SendCaOption = None,
    send_cert: SendCertOption = None,
    send_key: SendKeyOption = None,
    ae_title: TitleOption = "CNNRES",
    metrics: MetricsOption = None,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    self_check: SelfCheckOption = True,
    strict_backend: StrictOption = False,
    max_bytes: MaxBytesOption = "1G",
    max_memory: VolumeMemoryOption = None,
    timeout: VolumeTimeoutOption = None,
    require_signature: SignatureOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Segment what is put in a folder, until the process is ended."""
    model = Model(
        bundle,
        backend,
        precision,
        threads,
        self_check,
        strict_backend,
        require_signature,
        max_bytes,
        max_memory,
        timeout,
    )

    def start() -> tuple[Line, Open]:
        from cnnres_infer.service.build import hot_folder
        from cnnres_infer.service.transport import ClientFiles

        settings = settings_of(
            folder,
            out,
            settle,
            formats,
            overwrite,
            modality,
            send_to=tuple(send_to or ()),
            send_tls=ClientFiles(send_ca, send_cert, send_key),
            ae_title=ae_title,
            metrics=metrics,
        )
        line = f"watching {folder}; results go to {out}"
        return (lambda _: line), lambda load, watched: hot_folder(settings, load, watched)

    serve(model, start, quiet, verbose)
