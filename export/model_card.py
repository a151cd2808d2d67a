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


def _accuracy(accuracy: dict[str, Any]) -> list[str]:
    if not accuracy:
        return []
    lines = [
        "## Accuracy against expert masks\n",
        f"`{accuracy['command']}`, backend {accuracy['backend']}, {accuracy['precision']}. None of "
        "these patients was trained on.\n",
        "| volume | expert ml | model ml | Dice | lesion-wise F1 | volume difference ml | "
        "mean Dice of slices with lesion |\n|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['case']} | {row['truth_ml']:.2f} | {row['mask_ml']:.2f} | {row['dice']:.3f} | "
        f"{row['lesion_f1']:.3f} | {row['volume_difference_ml']:.2f} | "
        f"{row['slice_dice_mean']:.3f} |"
        for row in accuracy["volumes"]
    ]
    lines += [
        "",
        f"Held-out slices of {accuracy['patients']} further patients, the one with the largest "
        "lesion of each:\n",
        "| input | mean Dice | median Dice | Dice of all pixels |\n|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['mean']:.3f} | {row['median']:.3f} | {row['pooled']:.3f} |"
        for name, row in accuracy["slices"].items()
    ]
    lines += [
        "",
        "Steadiness: mean Dice of the network's masks with those of the same slices with noise of "
        f"1 % of their standard deviation: {accuracy['steadiness']:.4f}.",
    ]
    return lines
