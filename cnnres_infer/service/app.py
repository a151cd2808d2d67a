"""One study in a container, as the platform that has started it expects."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cnnres_infer.batch import CaseReport, Job
from cnnres_infer.errors import UsageError
from cnnres_infer.outputs.writers.report import Refusal
from cnnres_infer.predictor import Predictor
from cnnres_infer.service.contracts.contract import Contract
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
    CnnresError
        If the settings are wrong or the model cannot be loaded; a study that must not
        be segmented is in the report.
    """
    task = contract.task()
    settings, job = task.settings, job or Job()
    job = Job(
        out=task.output,
        modality=settings.modality,
        series=settings.series,
        bvalue=settings.bvalue,
        wording=job.wording,
    )
    formats = settings.formats or formats_for(task.input, job)
    job = Job(**{**vars(job), "formats": formats})
    job.check([task.input])
    with Predictor.load(
        settings.bundle_path,
        settings.backend,
        settings.precision,
        settings.threads,
        limits=settings.limits,
    ) as predictor:
        (entry,) = job.run(predictor, [task.input])
    platform = type(contract).__name__.lower()
    return AppReport(platform, entry, contract.deliver(task, entry))
