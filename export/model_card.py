"""The model card, which is written from ``model.json`` alone."""

from typing import Any

from cnnres_infer.core.diffusion import RestrictionSpec

CARD = "MODEL_CARD.md"

_SHADING = {
    "none": [],
    "removed": ["- The coil's shading is estimated in the brain and removed"],
    "removed from dwi": ["- The coil's shading of DWIs is estimated in the brain and removed"],
}
_RUNTIMES = {"ort": "ONNX Runtime", "openvino": "OpenVINO", "torch": "PyTorch"}
_USE = """\
Research on acute ischaemic stroke: outlining lesions on diffusion-weighted (DWI, b about 1000)
and FLAIR MRI of adults, for review by a person who can read such images.

**Not for** diagnosis, treatment decisions or triage, or for any use on patients that a regulator
has not cleared. It is not a medical device. Not for children, haemorrhage, tumours, chronic
lesions, ADC maps, CT, or volumes that do not show the brain.
"""


def model_card(manifest: dict[str, Any]) -> str:
    """Text of ``MODEL_CARD.md`` for a bundle.

    Parameters
    ----------
    manifest
        The content of ``model.json``; sections without an entry are left out.
    """
    image, mask, fusion = manifest["input"], manifest["mask"], manifest["fusion"]
    bounds = RestrictionSpec(**manifest["diffusion"]) if "diffusion" in manifest else None
    sections = [
        f"# {manifest['name']} {manifest['version']}\n",
        "CNN-Res, a residual U-Net of 6.5 million parameters (Gheibi et al., BMC Med Inform Decis "
        "Mak 23:192, 2023), exported for inference.\n",
        f"## Use\n\n{_USE}",
        *([f"{manifest['limits']}\n"] if "limits" in manifest else []),
        *(
            [f"Licence of the weights: {manifest['weights_licence']}.\n"]
            if "weights_licence" in manifest
            else []
        ),
        "## Input and output\n",
        f"- Images of {image['size']} x {image['size']} pixels of {image['spacing_mm']} mm; "
        f"channels: {image['channels']}; modalities: {', '.join(image['modalities'])}",
        "- Skull-stripped; volumes with skull are stripped first",
        *_SHADING[image.get("shading", "none")],
        *(
            ["- Images are cut to the brain, in steps of 32 pixels from 96 on"]
            if image.get("frame") == "brain"
            else []
        ),
        f"- The probabilities for DWI and FLAIR are merged by the rule `{fusion['rule']}`, with a "
        f"DWI weight of {fusion['dwi_weight']}",
        f"- The mask starts at a probability of {mask['threshold']}"
        + (
            f"; lesions below {mask['smallest_lesion_ml']} ml are dropped"
            if mask["smallest_lesion_ml"]
            else ""
        ),
        *(
            [
                "- Where the ADC is given, lesions are rejected if fewer than "
                f"{100 * bounds.smallest_restricted_share:g} % of their voxels have an ADC below "
                f"{bounds.relative_adc_below:g} times the brain's"
            ]
            if bounds is not None
            else []
        ),
        "",
    ]
    sections += _training(manifest.get("training", {}))
    sections += _export(manifest.get("export", {}))
    sections += _calibration(manifest.get("calibration", {}))
    sections += _accuracy(manifest.get("accuracy", {}))
    sections += _lesion_free(manifest.get("accuracy", {}).get("lesion_free", {}))
    sections += _agreement(manifest.get("accuracy", {}).get("agreement", {}))
    return "\n".join(sections).rstrip() + "\n"


def _training(training: dict[str, Any]) -> list[str]:
    if not training:
        return []
    sources = [
        f"- **{source['name']}**: {source['used']}. {source['attribution']}. "
        f"Licence: {source['licence']}."
        for source in training["data"]
    ]
    return ["## Training\n", f"`{training['command']}`\n", *sources, ""]


def _export(export: dict[str, Any]) -> list[str]:
    if not export:
        return []
    lines = [
        "## Export\n",
        "Largest difference in probability from PyTorch in float32, on "
        f"{export['reference_slices']} reference slices of phantoms. ONNX Runtime computed the "
        "files on a CPU, where it computes float16 files in float32, so the figure for fp16 "
        "reflects its weights only.\n",
        "| variant | difference |\n|---|---|",
    ]
    lines += [f"| {name} | {value:.2g} |" for name, value in export["largest_difference"].items()]
    return [*lines, ""]


def _calibration(calibration: dict[str, Any]) -> list[str]:
    if not calibration:
        return []
    gates, cases = calibration["gates"], calibration["cases"]
    lines = [
        "## Faster precisions against PyTorch float32\n",
        "`python -m calibration BUNDLE --data DATA` calibrated on slices of "
        f"{cases['calibration']} scans and judged on {cases['gate']} scans of other patients, none "
        "of whom the network was trained on. A slice counts if either mask has lesion. INT8 and "
        "bfloat16 must reach a mean Dice of slices, 5th percentile and Dice of volumes of "
        f"{_bounds(gates['int8'])}, float16 of {_bounds(gates['fp16'])}, and Dice with the expert "
        f"masks may drop by at most {calibration['largest_drop']}. PyTorch computes "
        "the files for GPUs, with what they have in float16 rounded to that after each node. "
        "Everything that was tried is recorded in `calibration.json`.\n",
        "| variant | computed by | made with | multiply-adds in 8 bits | mean Dice of slices | "
        "5th percentile, slices over 50 pixels | lowest Dice of a volume | "
        "slices: counted, empty in one mask, empty in both | drop in Dice with experts | gate |\n"
        + "|---" * 10
        + "|",
    ]
    rows = []
    for name, row in calibration["variants"].items():
        if name in calibration.get("earlier", ()):
            row = {**row, "tried": f"{row['tried']} (judged in an earlier calibration)"}
        rows.append((name, row))
        if row.get("openvino"):
            rows.append((name, {**row, **row["openvino"], "engine": "openvino"}))
    lines += [
        f"| {name} | {_RUNTIMES.get(row.get('engine'), '')} | {row['tried']} | "
        f"{row.get('share_in_int8', 0.0):.1%} | "
        f"{row['dice_mean']:.4f} | {row['dice_p5_large']:.4f} | "
        f"{min(row['dice_volumes'], default=1.0):.4f} | "
        f"{row['slices'] - row['both_empty']}, {row['one_empty']}, {row['both_empty']} | "
        f"{row['expert_drop']:.4f} | {'passed' if row['passed'] else 'failed, not used'} |"
        for name, row in rows
    ]
    return [*lines, ""]


def _bounds(gate: dict[str, float]) -> str:
    return " / ".join(str(gate[key]) for key in ("mean", "tail", "pooled"))


def _accuracy(accuracy: dict[str, Any]) -> list[str]:
    if not accuracy:
        return []
    precisions = accuracy["precisions"]
    lines = [
        "## Accuracy against expert masks\n",
        f"`{accuracy['command']}`. The network was not trained on any of these patients. PyTorch "
        "computed fp16, OpenVINO bf16.\n",
        "| volume | precision | expert ml | model ml | Dice | lesion-wise F1 | "
        "volume difference ml | mean Dice of slices with lesion |\n" + "|---" * 8 + "|",
    ]
    lines += [
        f"| {row['case']} | {precision} | {row['truth_ml']:.2f} | {row['mask_ml']:.2f} | "
        f"{row['dice']:.3f} | {row['lesion_f1']:.3f} | {row['volume_difference_ml']:.2f} | "
        f"{row['slice_dice_mean']:.3f} |"
        for rows in zip(*(_volumes(precisions, name) for name in precisions), strict=True)
        for precision, row in rows
    ]
    exact = next(iter(precisions.values()))
    lines += [
        "",
        f"Slices of {exact['patients']} further patients held out from training, for each the one "
        "with the largest lesion:\n",
        "| input | precision | mean Dice | median Dice | Dice of all pixels |\n" + "|---" * 5 + "|",
    ]
    lines += [
        f"| {name} | {precision} | {row['mean']:.3f} | {row['median']:.3f} | {row['pooled']:.3f} |"
        for name in exact["slices"]
        for precision, row in ((p, precisions[p]["slices"][name]) for p in precisions)
    ]
    steadiness = ", ".join(f"{p} {each['steadiness']:.4f}" for p, each in precisions.items())
    lines += [
        "",
        "Steadiness, the mean Dice of the network's masks with and without added noise of 1 % of "
        f"the images' standard deviation: {steadiness}.",
    ]
    return lines


def _volumes(precisions: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, row) for row in precisions[name]["volumes"]]


def _lesion_free(table: dict[str, Any]) -> list[str]:
    if not table:
        return []
    clinical = table["clinical"]
    lines = [
        "",
        "## Volunteers without a known lesion\n",
        "Every lesion found here is false. With b0, only lesions are kept in which at least "
        f"{100 * table['smallest_restricted_share']:g} % of the voxels have an ADC below "
        f"{table['relative_adc_below']} times the brain's. Of "
        f"{clinical['series']} series at b of about 1000: {clinical['ml']:.2f} ml on average, "
        f"none in {clinical['without_lesion']}; with b0 {clinical['ml_with_b0']:.2f} ml, none in "
        f"{clinical['without_lesion_with_b0']}.\n",
        "| series | b, s/mm² | trained on | false lesions | ml | with b0 | ml |\n"
        + "|---" * 7
        + "|",
    ]
    for row in table["series"]:
        b, b0 = row["b"], row["ml_with_b0"]
        with_b0 = "no b0 | " if b0 is None else f"{row['lesions_with_b0']} | {b0:.2f}"
        known = "unknown" if b is None else f"{b:g}"
        lines.append(
            f"| {row['series']} | {known} | {'yes' if row['trained_on'] else 'no'} | "
            f"{row['lesions']} | {row['ml']:.2f} | {with_b0} |"
        )
    return lines


def _agreement(agreement: dict[str, Any]) -> list[str]:
    if not agreement:
        return []
    lines = [
        "",
        "## Masks that should be the same\n",
        "Dice of the masks of mirrored volumes, of slices cut to the brain, of an emulation of 8 "
        "bits in all convolutions but the head, and of volumes under a coil's gain of up to 40 % "
        "(the lowest of several), with the usual ones. Held-out slices in 8 bits: "
        f"{agreement['rounded_slices']:.3f}.\n",
        "| volume | mirrored | cropped | 8 bits | shaded |\n|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['mirrored']:.3f} | {row['cropped']:.3f} | {row['rounded']:.3f} | "
        + (f"{row['shaded']:.3f} |" if "shaded" in row else "|")
        for name, row in agreement["volumes"].items()
    ]
    return lines
