"""Conversion between ``model.json`` and `ModelSpec`."""

from dataclasses import asdict
from typing import Any

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.case import Modality
from cnnres_infer.core.diffusion import RestrictionSpec
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.spec import FusionSpec, ModelSpec, SliceSpec
from cnnres_infer.errors import BundleError, UsageError

MANIFEST = "model.json"


def spec_from_json(content: dict[str, Any]) -> ModelSpec:
    """Read a model's specification from the content of ``model.json``.

    Raises
    ------
    BundleError
        If a value is missing, malformed or out of range.
    """
    try:
        image, mask, fusion = content["input"], content["mask"], content["fusion"]
        return ModelSpec(
            name=str(content["name"]),
            version=str(content["version"]),
            channels=int(image["channels"]),
            modalities=tuple(Modality.parse(str(name)) for name in image["modalities"]),
            slices=SliceSpec(
                int(image["size"]),
                float(image["spacing_mm"]),
                float(image["ceiling"]),
                str(image.get("shading", "none")),
                str(image.get("frame", "whole")),
            ),
            fusion=FusionSpec(str(fusion["rule"]), float(fusion["dwi_weight"])),
            mask=MaskSpec(float(mask["threshold"]), float(mask["smallest_lesion_ml"])),
            restriction=_restriction(content.get("diffusion")),
        )
    except (BundleError, UsageError) as error:
        raise _malformed(str(error)) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _malformed(f"incomplete or malformed ({error!r})") from error


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """Convert a model's specification to JSON; the inverse of `spec_from_json`."""
    return {
        "name": spec.name,
        "version": spec.version,
        "input": {
            "channels": spec.channels,
            "modalities": [str(modality) for modality in spec.modalities],
            "size": spec.slices.size,
            "spacing_mm": spec.slices.spacing,
            "ceiling": spec.slices.ceiling,
            # Left out where they are the default, so that what was bound to a spec stays bound.
            **({} if spec.slices.shading == "none" else {"shading": spec.slices.shading}),
            **({} if spec.slices.frame == "whole" else {"frame": spec.slices.frame}),
        },
        "fusion": {"rule": spec.fusion.rule, "dwi_weight": spec.fusion.dwi_weight},
        "mask": {
            "threshold": spec.mask.threshold,
            "smallest_lesion_ml": spec.mask.smallest_ml,
        },
        **({} if spec.restriction is None else {"diffusion": asdict(spec.restriction)}),
    }


def _restriction(bounds: dict[str, Any] | None) -> RestrictionSpec | None:
    if bounds is None:
        return None
    return RestrictionSpec(**{name: float(value) for name, value in dict(bounds).items()})


def _malformed(reason: str) -> BundleError:
    return BundleError(
        f"{MANIFEST}: {reason}; export the bundle again", code=ErrorCode.BUNDLE_MANIFEST
    )
