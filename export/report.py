"""The verification figures as lines for people; the same figures are in ``manifest.json`` under ``verification``."""

from collections.abc import Mapping
from typing import Any

LAYERS_SHOWN = 8


def lines(manifest: Mapping[str, Any], speeds: Mapping[str, Any] | None = None) -> list[str]:
    """Write the report of an export.

    :param manifest: as written, ``files`` and ``verification`` included.
    :param speeds: what was measured of speed, nested as ``verification`` is.
    :return: the report, one string a line.
    """
    files: Mapping[str, Any] = manifest["files"]
    size = sum(entry["size"] for entry in files.values())
    scheme = f", scheme {manifest['scheme']}" if manifest["scheme"] else ""
    report = [
        f"{manifest['name']}: {manifest['architecture']}, {manifest['layers']} layers, "
        f"{manifest['dimension']} dimensions, {manifest['heads']} heads, {manifest['precision']}{scheme}",
        f"{'files':<24}{size / 1e6:.2f} MB: "
        + ", ".join(f"{name} {entry['size']:,}" for name, entry in files.items()),
    ]
    modules = "".join(f", {_module(entry)}" for entry in manifest["modules"])
    report.append(
        f"{'vectors':<24}{manifest['dimension']} numbers: {' + '.join(manifest['pooling']['modes'])}{modules}, "
        f"{'length 1' if manifest['normalize'] else 'not normalised'} by default; texts of up to "
        f"{manifest['max_tokens']:,} tokens"
    )
    if prompts := manifest["prompts"]:
        default = manifest["default_prompt_name"]
        report.append(
            f"{'prompts':<24}{', '.join(prompts)}; by default {'none' if default is None else repr(default)}"
            + ("" if manifest["pooling"]["include_prompt"] else "; their tokens are not pooled")
        )
    report += [f"{'note':<24}{note}" for note in manifest.get("notes", [])]
    figures: Mapping[str, Any] = manifest["verification"]
    if fp32 := figures.get("fp32"):
        alone = ", ".join(f"{length}: {difference:.0e}" for length, difference in fp32["alone"].items())
        report += [
            f"{'fp32 against torch':<24}largest difference of the unit vector by tokens: {alone}",
            f"{'':<24}in ragged padded batches: {fp32['padded']:.0e} (allowed: {fp32['tolerance']:g})",
        ]
    if tokenizer := figures.get("tokenizer"):
        report.append(
            f"{'tokenizer':<24}the ids of the checkpoint's own, on {tokenizer['texts']:,} texts and "
            f"{tokenizer['hostile']:,} hostile strings"
        )
    if vectors := figures.get("vectors"):
        report.append(
            f"{'vectors':<24}of the finished folder against torch, pooling and modules: {vectors['texts']} texts, "
            f"{vectors['prompts']} prompts, worst cosine {vectors['worst']:.6f}, largest difference "
            f"{vectors['difference']:.0e}"
        )
    if official := figures.get("official"):
        report.append(f"{'published figures':<24}{official['name']}: {len(official['gates'])} checked")
        report += [
            f"{'':<24}{gate['what']}: {gate['figure']} ({gate['allowed']}; {gate['source']})"
            for gate in official["gates"]
        ]
    if int8 := figures.get("int8"):
        allowed = f" (allowed: {int8['least_allowed']})" if int8["least_allowed"] else " (measured, no limit)"
        report += [
            f"{'int8 against fp32':<24}{int8['texts']:,} texts, {int8['tokens']:,} tokens, "
            f"the longest {int8['longest_tokens']:,}",
            f"{'':<24}cosine: worst {int8['worst']:.5f}{allowed}, "
            f"1st percentile {int8['percentile_1']:.5f}, mean {int8['mean']:.6f}",
            f"{'':<24}a text alone against the same in a batch: worst {int8['alone_against_batch']['worst']:.6f}",
        ]
    if speed := (speeds or {}).get("int8"):
        report.append(
            f"{'':<24}{speed['tokens_per_second']:,} tokens a second, {speed['times_fp32_speed']} times fp32's speed"
        )
    for name in sorted({"rotation", "head"} & figures.keys()):
        turned = figures[name]
        kept = ", ".join(f"{n}: {share:.1%}" for n, share in turned["variance"].items())
        report += [
            f"{name:<24}variance of {turned['texts']:,} texts by dimensions kept: {kept}",
            f"{'':<24}largest change of a cosine: {turned['largest_change_of_a_cosine']:.0e}",
        ]
    if scores := figures.get("rerank"):
        worst = max(scores["fp32"].values())
        report.append(
            f"{'scores against torch':<24}largest difference of a logit: {worst:.0e} (allowed: {scores['tolerance']:g})"
        )
        if order := scores.get("int8"):
            report += [
                f"{'scores int8 to fp32':<24}Kendall's tau {order['tau']:.3f} over {order['lists']:,} lists "
                f"(allowed: {order['least_allowed']})",
                f"{'':<24}logits differ by {order['mean_difference']:g} on average, {order['largest_difference']:g} "
                f"at most; they spread by {order['spread']:g}",
            ]
    if made := figures.get("quantization"):
        report += _quantization(made)
    if peer := figures.get("optimum"):
        report.append(
            f"{'beside optimum':<24}{peer['texts']:,} texts, {peer['tokens']:,} tokens, the same weights"
        )
        for name in ("ours", "optimum"):
            entry = peer[name]
            report.append(
                f"{'':<24}{name:<10} cosine: worst {entry['worst']:.5f}, mean {entry['mean']:.6f}; "
                f"{entry['bytes'] / 1e6:.1f} MB"
                + (f"; {speeds['optimum'][name]['tokens_per_second']:,} tokens a second" if speeds else "")
            )
    if layers := figures.get("layers"):
        report.append(f"{'costliest in int8':<24}each linear layer quantised alone; mean and worst cosine")
        shown = list(layers.items())[:LAYERS_SHOWN]
        report += [f"{'':<24}{name:<36} {entry['mean']:.6f}  {entry['worst']:.6f}" for name, entry in shown]
    return report


def _quantization(made: Mapping[str, Any]) -> list[str]:
    """What int8 took."""
    count = made["linear_layers"]
    if not made["repaired"]:
        return [f"{'quantization':<24}all {count['int8']} linear layers in int8, rounded to nearest"]
    steps = [made["steps"][0], made["steps"][1]]
    report = [f"{'quantization':<24}repaired: smoothed, and rounded with compensation"]
    report += [
        f"{'':<24}{step['step']}: worst {step['worst']:.5f}, mean {step['mean']:.6f} on the sample"
        for step in steps
    ]
    report.append(
        f"{'':<24}{count['int8']} linear layers in int8, {count['wide']} of int8 with 16-bit activations, "
        f"{count['fp32']} in fp32"
    )
    for form in ("wide", "fp32"):
        if names := made[form]:
            shown = ", ".join(names[:LAYERS_SHOWN]) + (" …" if len(names) > LAYERS_SHOWN else "")
            report.append(f"{'':<24}{'16 bits' if form == 'wide' else form}: {shown}")
    return report


def _module(entry: Mapping[str, Any]) -> str:
    if entry["type"] == "dense":
        return f"dense to {entry['out_features']} ({entry['activation']})"
    return str(entry["type"]).replace("_", " ")
