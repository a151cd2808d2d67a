"""What the SR says: lesions, what was rejected, warnings, and the agreement with PyTorch."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnres_infer.core.mask import Lesion
from cnnres_infer.core.provenance import Verification
from cnnres_infer.outputs.dicom import concepts
from cnnres_infer.outputs.dicom.concepts import OWN_SCHEME, Concept
from cnnres_infer.outputs.dicom.geometry import Planes, to_lps
from cnnres_infer.outputs.dicom.objects import PRODUCT, Product, identity, stand_in
from cnnres_infer.outputs.dicom.origin import Origin
from cnnres_infer.outputs.dicom.references import list_evidence
from cnnres_infer.outputs.dicom.segmentation import finding
from cnnres_infer.readers.dicom.headers import quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PRODUCT = Product("sr", 9003, "Lesion measurements")
_NOTE = "Research use only; not a medical device. Not reviewed by a person."
_NO_LESION = "No lesion was found."
# Decimal strings have room for 16 characters.
_DIGITS = 9


def measurement_report(origin: Origin, segmentation: "Dataset | None") -> "Dataset":
    """Make the SR (TID 1500).

    It has a group of measurements for the whole mask, one for each lesion, one for
    each rejected lesion, and one for the agreement with PyTorch.

    Parameters
    ----------
    origin
        The result.
    segmentation
        The SEG that its measurements refer to; None without.
    """
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    groups = [_whole(origin, segmentation), *_lesions(origin), _parity(origin)]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(origin)),
        procedure_reported=concepts.MRI_OF_BRAIN.coded(),
        imaging_measurements=groups,
    )
    referred = [] if segmentation is None else [segmentation]
    with quiet():
        report = sr.Comprehensive3DSR(
            evidence=[stand_in(origin, Planes.of(origin.result.mask.grid)), *referred],
            content=content,
            is_complete=True,
            is_final=False,
            is_verified=False,
            coding_schemes=[
                CodingSchemeIdentificationItem(
                    OWN_SCHEME, name=f"Codes of {PRODUCT}", responsible_organization=PRODUCT
                )
            ],
            **identity(
                origin, _PRODUCT, *_content(origin), [each.SOPInstanceUID for each in referred]
            ),
        )
    list_evidence(report, origin, segmentation)
    return report


def _content(origin: Origin) -> tuple[object, ...]:
    """What the SR holds beyond the mask."""
    result = origin.result
    checked = result.provenance.verification
    figures = (
        [] if checked is None else [checked.passed, *(value for _, value in _figures(checked))]
    )
    return result.lesions, result.rejected, result.diffusion, origin.warnings, figures


def _figures(checked: Verification) -> Iterator[tuple[Concept, float]]:
    yield concepts.DICE_MEAN, checked.dice_mean
    yield concepts.DICE_MIN, checked.dice_min
    yield concepts.DICE_POOLED, checked.dice_pooled
    yield concepts.DIFFERENCE, checked.largest_difference
    yield concepts.SLICES, checked.slices


def _observer(origin: Origin) -> Any:
    from highdicom import sr

    made = origin.result.provenance
    return sr.ObserverContext(
        observer_type=Concept("121007", "DCM", "Device").coded(),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=origin.device_uid,
            name=PRODUCT,
            manufacturer_name=PRODUCT,
            model_name=f"{made.model} {made.version}",
            serial_number=made.bundle_sha256,
        ),
    )


def _whole(origin: Origin, segmentation: "Dataset | None") -> Any:
    """The group of the whole mask, with all that concerns it: notes and warnings."""
    from highdicom import sr

    result = origin.result
    found = bool(result.lesions)
    common: dict[str, Any] = {
        **_common(origin, "Lesions", finding(origin)),
        "measurements": [
            _measurement(concepts.VOLUME, result.mask.volume_ml, concepts.MILLILITRE),
            _measurement(concepts.COUNT, len(result.lesions), concepts.NO_UNIT),
        ],
        "qualitative_evaluations": [
            _evaluation(concepts.STATUS, concepts.FOUND if found else concepts.NO_LESION)
        ],
    }
    if segmentation is None:
        group: Any = sr.MeasurementsAndQualitativeEvaluations(**common)
    else:
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            **common,
            referenced_segment=sr.ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=1,
                source_series=sr.SourceSeriesForSegmentation(origin.source.series),
            ),
        )
    notes = [_NOTE] if found else [_NO_LESION, _NOTE]
    return _commented(group, [*notes, result.diffusion.note, *origin.warnings])


def _lesions(origin: Origin) -> Iterator[Any]:
    """The groups of lesions, and of those that were taken out of the mask."""
    result = origin.result
    for number, lesion in enumerate(result.lesions, 1):
        common = _common(origin, f"Lesion {number}", finding(origin))
        yield _lesion(origin, common, concepts.ACCEPTED, lesion)
    for number, lesion in enumerate(result.rejected, 1):
        common = _common(origin, f"Rejected lesion {number}", concepts.LESION)
        yield _lesion(origin, common, concepts.REJECTED, lesion)


def _lesion(origin: Origin, common: dict[str, Any], status: Concept, lesion: Lesion) -> Any:
    """The group of a lesion, at the point of its centre."""
    from highdicom import sr

    centre = to_lps(np.array([lesion.centre_mm], np.float64))
    measurements = [_measurement(concepts.VOLUME, lesion.volume_ml, concepts.MILLILITRE)]
    for name_of, value, unit, derivation in (
        (concepts.ADC, lesion.adc_mm2_s, concepts.MM2_PER_S, concepts.MEDIAN),
        (concepts.RELATIVE_ADC, lesion.relative_adc, concepts.NO_UNIT, concepts.MEDIAN),
        (concepts.RESTRICTED_SHARE, lesion.restricted_share, concepts.NO_UNIT, None),
    ):
        if value is not None:
            measurements.append(_measurement(name_of, value, unit, derivation))
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        **common,
        referenced_region=sr.ImageRegion3D(
            graphic_type="POINT",
            graphic_data=centre,
            frame_of_reference_uid=origin.source.frame_of_reference,
        ),
        geometric_purpose=concepts.CENTRE_OF_MASS.coded(),
        measurements=measurements,
        qualitative_evaluations=[_evaluation(concepts.STATUS, status)],
    )


def _parity(origin: Origin) -> Any:
    """The group of the agreement of the engine with PyTorch on this machine."""
    from highdicom import sr

    checked = origin.result.provenance.verification
    engine = origin.result.provenance.engine
    measurements = []
    if checked is None:
        verdict = concepts.UNCHECKED
    else:
        verdict = concepts.PASSED if checked.passed else concepts.FAILED
        measurements = [
            _measurement(name, value, concepts.NO_UNIT) for name, value in _figures(checked)
        ]
    name = "Agreement with PyTorch"
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=origin.uid(name), identifier=name),
        algorithm_id=_algorithm(origin),
        measurements=measurements,
        qualitative_evaluations=[_evaluation(concepts.PARITY, verdict)],
    )
    text = f"Engine: {engine.backend}, {engine.provider}, {engine.precision} ({engine.variant})"
    return _commented(group, [text])


def _common(origin: Origin, name: str, what: Concept) -> dict[str, Any]:
    """What groups about lesions have in common: their name, and what is found."""
    from highdicom import sr

    return {
        "tracking_identifier": sr.TrackingIdentifier(uid=origin.uid(name.lower()), identifier=name),
        "finding_category": concepts.ABNORMAL.coded(),
        "finding_type": what.coded(),
        "finding_sites": [sr.FindingSite(concepts.BRAIN.coded())],
        "algorithm_id": _algorithm(origin),
    }


def _algorithm(origin: Origin) -> Any:
    from highdicom import sr

    made = origin.result.provenance
    return sr.AlgorithmIdentification(
        name=made.model,
        version=made.version,
        parameters=[f"bundle_sha256={made.bundle_sha256}"],
    )


def _measurement(
    name: Concept, value: float, unit: Concept, derivation: Concept | None = None
) -> Any:
    from highdicom import sr

    return sr.Measurement(
        name=name.coded(),
        value=value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}"),
        unit=unit.coded(),
        derivation=None if derivation is None else derivation.coded(),
    )


def _evaluation(name: Concept, value: Concept) -> Any:
    from highdicom import sr

    return sr.QualitativeEvaluation(name=name.coded(), value=value.coded())


def _commented(group: Any, texts: Iterable[str]) -> Any:
    """Append comments to a group."""
    group[0].ContentSequence.extend(_comments(texts))
    return group


def _comments(texts: Iterable[str]) -> Iterator[Any]:
    from highdicom import sr

    for text in texts:
        if text:
            yield sr.TextContentItem(
                name=concepts.COMMENT.coded(), value=text, relationship_type="CONTAINS"
            )
