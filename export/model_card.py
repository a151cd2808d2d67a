"""The model card, written from what ``model.json`` says and nothing else."""

from typing import Any

CARD = "MODEL_CARD.md"

_USE = """\
Research on acute ischaemic stroke: outlining lesions on diffusion-weighted (DWI, b about 1000)
and FLAIR MRI of adults, to be looked at by a person who can read such images.

**Not for**: diagnosis or treatment decisions, triage, or any use on patients that a regulator has
not cleared. It is no medical device. Not for children, haemorrhage, tumours, chronic lesions,
ADC maps, CT, or volumes without a brain in them.
"""


def model_card(manifest: dict[str, Any]) -> str:
    """Text of ``MODEL_CARD.md`` for a bundle.

    Parameters
    ----------
    manifest
        The content of ``model.json``; entries that it lacks are left out.
    """
    image, mask, fusion = manifest["input"], manifest["mask"], manifest["fusion"]
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
        f"- {image['channels']} channel(s) of {image['size']} x {image['size']} pixels of "
        f"{image['spacing_mm']} mm; modalities: {', '.join(image['modalities'])}",
        "- skull-stripped; other volumes are stripped first",
        f"- DWI and FLAIR are merged by rule `{fusion['rule']}`, DWI weight {fusion['dwi_weight']}",
        f"- mask at probability {mask['threshold']}, lesions of at least "
        f"{mask['smallest_lesion_ml']} ml\n",
    ]
    sections += _training(manifest.get("training", {}))
    sections += _export(manifest.get("export", {}))
    sections += _calibration(manifest.get("calibration", {}))
    sections += _accuracy(manifest.get("accuracy", {}))
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
        f"Largest difference of probabilities from PyTorch float32 on {export['reference_slices']} "
        "reference slices of phantoms, in ONNX Runtime on a CPU (which computes float16 files in "
        "float32, so that the figure for fp16 is that of its weights):\n",
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
        "`python -m calibration BUNDLE --data DATA`: calibrated on slices of "
        f"{cases['calibration']} cases, judged on {cases['gate']} cases of other patients, none of "
        "which was trained on. "
        "A slice counts where either mask has lesion. INT8 and bfloat16 must reach "
        f"{gates['int8']['mean']} / {gates['int8']['tail']} / {gates['int8']['pooled']}, float16 "
        f"{gates['fp16']['mean']} / {gates['fp16']['tail']} / {gates['fp16']['pooled']}, and Dice "
        f"with the experts may drop by {calibration['largest_drop']}. All that was tried is in "
        "`calibration.json`.\n",
        "| variant | how | mean Dice of slices | 5th percentile, over 50 pixels | worst volume | "
        "slices: counted, empty in one, in both | drop of Dice with experts | gate |\n"
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for name, row in calibration["variants"].items():
        rows.append((name, row))
        if row.get("openvino"):
            rows.append((f"{name}, OpenVINO", {**row, **row["openvino"]}))
    lines += [
        f"| {name} | {row['tried']} | {row['dice_mean']:.4f} | {row['dice_p5_large']:.4f} | "
        f"{min(row['dice_volumes'], default=1.0):.4f} | "
        f"{row['slices'] - row['both_empty']}, {row['one_empty']}, {row['both_empty']} | "
        f"{row['expert_drop']:.4f} | {'passed' if row['passed'] else 'failed, not in the bundle'} |"
        for name, row in rows
    ]
    return [*lines, ""]


def _accuracy(accuracy: dict[str, Any]) -> list[str]:
    if not accuracy:
        return []
    precisions = accuracy["precisions"]
    lines = [
        "## Accuracy against expert masks\n",
        f"`{accuracy['command']}`. None of these patients was trained on. fp16 was computed by "
        "PyTorch, bf16 by OpenVINO.\n",
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
        f"Held-out slices of {exact['patients']} further patients, the one with the largest "
        "lesion of each:\n",
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
        "Steadiness: mean Dice of the network's masks with those of the same slices with noise of "
        f"1 % of their standard deviation: {steadiness}.",
    ]
    return lines


def _volumes(precisions: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, row) for row in precisions[name]["volumes"]]
