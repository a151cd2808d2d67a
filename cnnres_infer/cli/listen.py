"""``cnnres-infer listen``."""

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
from cnnres_infer.limits import parse_size


def listen(
    folder: Annotated[
        Path, typer.Argument(help="Folder for studies, their state and, in out/, results.")
    ] = Path("cnnres-listen"),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the outputs; default: out/.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.")] = 11112,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs --allow.")
    ] = "127.0.0.1",
    ae_title: TitleOption = "CNNRES",
    require_title: Annotated[
        bool, typer.Option("--require-title", help="Refuse senders that call another AE title.")
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="AET[@ADDRESS]", help="Who may send; may be repeated."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Own certificate, to listen with TLS.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Key of the certificate.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Demand certificates of senders, issued by one of these."
        ),
    ] = None,
    max_pdu: Annotated[str, typer.Option(metavar="SIZE", help="Largest PDU.")] = "128K",
    max_object: Annotated[str, typer.Option(metavar="SIZE", help="Largest object.")] = "512M",
    max_associations: Annotated[int, typer.Option(help="Senders at the same time.")] = 8,
    min_free: Annotated[
        str, typer.Option(metavar="SIZE", help="Refuse objects below this much free disk space.")
    ] = "1G",
    settle: SettleOption = 30.0,
    modality: Annotated[str, typer.Option(help="What is segmented: dwi or flair.")] = "dwi",
    formats: FormatsOption = None,
    send_to: SendToOption = None,
    send_ca: SendCaOption = None,
    send_cert: SendCertOption = None,
    send_key: SendKeyOption = None,
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
    """Receive DICOM studies and segment them, until the process is ended."""
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
        from cnnres_infer.service.build import listener
        from cnnres_infer.service.receiver import Listening, Peer
        from cnnres_infer.service.transport import ClientFiles

        results = folder / "out" if out is None else out
        settings = settings_of(
            folder,
            results,
            settle,
            formats,
            modality=modality,
            send_to=tuple(send_to or ()),
            send_tls=ClientFiles(send_ca, send_cert, send_key),
            ae_title=ae_title,
            metrics=metrics,
        )
        listening = Listening(
            host=host,
            port=port,
            ae_title=ae_title,
            allow=tuple(map(Peer.parse, allow or ())),
            require_title=require_title,
            max_pdu=parse_size(max_pdu),
            max_object=parse_size(max_object),
            max_associations=max_associations,
            certificate=tls_cert,
            key=tls_key,
            client_ca=tls_client_ca,
        )
        free = parse_size(min_free)

        def line(found: int | None) -> str:
            return f"listening on {host}:{found} as {ae_title}; results go to {results}"

        return line, lambda load, watched: listener(settings, listening, free, load, watched)

    serve(model, start, quiet, verbose)
