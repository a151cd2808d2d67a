"""One study in a container, as the platform that has started it expects."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cnnres_infer.batch import CaseReport, Job
from cnnres_infer.core.failure import Failure
from cnnres_infer.errors import UsageError
from cnnres_infer.outputs.writers.report import Refusal
from cnnres_infer.predictor import Predictor
from cnnres_infer.service.contracts.contract import Contract, Task
from cnnres_infer.service.contracts.mercure import Mercure
from cnnres_infer.service.contracts.monai import MANIFEST, Monai
from cnnres_infer.service.worker import formats_for


@dataclass(frozen=True)
class AppReport:
    """What became of the study.

    Attributes
    ----------
    platform
        Name of the contract.
    entry
        What was found, or why nothing was.
    files
        Files in the output folder.
    """

    platform: str
    entry: CaseReport | Refusal
    files: tuple[Path, ...]


def find_contract(environment: Mapping[str, str], manifest: Path = MANIFEST) -> Contract:
    """The contract of the platform.

    Mercure's comes first, since Mercure sets MONAI's variables as well.

    Raises
    ------
    UsageError
        If there is none.
    """
    found: Contract | None = Mercure.of(environment) or Monai.of(environment, manifest)
    if found is None:
        raise UsageError(
            "no platform has started this: set MERCURE_IN_DIR and MERCURE_OUT_DIR, or "
            "HOLOSCAN_INPUT_PATH and HOLOSCAN_OUTPUT_PATH, to the folders of the study and results"
        )
    return found


def run_app(contract: Contract, job: Job | None = None) -> AppReport:
    """Segment the study of a contract, and deliver the results.

    Parameters
    ----------
    contract
        The contract.
    job
        How errors are worded.

    Raises
    ------
    OutputError
        If they cannot be delivered; whatever else is wrong is in the report.
    """
    job = job or Job()
    try:
        entry = _segment(contract.task(), job)
        files = contract.deliver(entry)
    except Exception as error:
        # Of a platform that is told why there is no result, a person may see nothing else.
        entry = Refusal(contract.source, Failure.of(error, job.wording))
        files = contract.deliver(entry)
    return AppReport(type(contract).__name__.lower(), entry, files)


def _segment(task: Task, job: Job) -> CaseReport | Refusal:
    settings = task.settings
    job = Job(
        out=task.output,
        modality=settings.modality,
        series=settings.series,
        bvalue=settings.bvalue,
        wording=job.wording,
    )
    formats = settings.formats or formats_for(task.input, job)
    job = replace(job, formats=formats)
    job.check([task.input])
    with Predictor.load(
        settings.bundle_path,
        settings.backend,
        settings.precision,
        settings.threads,
        limits=settings.limits,
    ) as predictor:
        (entry,) = job.run(predictor, [task.input])
    return entry
