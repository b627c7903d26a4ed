"""Why the plans of a dataset are what they are: its fingerprint, every decision, and the numbers it follows from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import log2
from typing import Any

import numpy as np

from framework.data.raw_dataset import RawDataset
from framework.preprocessing.normalisation import SCHEMES
from framework.preprocessing.patch_fitting import Fit
from framework.preprocessing.planner import ConfigurationChoice, Decisions, decide_for_dataset, plan_dataset
from framework.preprocessing.rules import PlannerRules

_MARGIN = 14
_WIDTH = 118


def explain_plans(raw_dataset: RawDataset, fingerprint: Mapping[str, Any], preset: Mapping[str, Any]) -> Iterator[str]:
    """About a screen of text, line by line.

    Args:
        fingerprint: as in ``dataset_fingerprint.json``.
        preset: as `framework.preprocessing.presets.load_preset` returns it.

    Raises:
        PlansError: the preset has fields that do not exist or values that cannot be.
    """
    rules = PlannerRules.of_preset(preset)
    decisions = decide_for_dataset(rules, raw_dataset, fingerprint)
    yield f"{raw_dataset.name}, and why the rules of preset '{preset['name']}' plan it so:"
    yield from _data(raw_dataset, fingerprint)
    yield from _paragraph("spacing", _spacing(rules, decisions, fingerprint))
    yield from _paragraph("axes", _axes(decisions))
    yield from _paragraph("normalising", _normalisation(rules, decisions, raw_dataset, fingerprint))
    yield from _configuration("2d", decisions.flat, rules)
    if decisions.fullres is None or decisions.lowres is None:
        yield from _paragraph("3d", ["not planned: the images are single slices."])
        return
    yield from _configuration("3d_fullres", decisions.fullres, rules)
    yield from _paragraph("3d_lowres", _lowres(rules, decisions))
    if decisions.lowres.configuration is not None and decisions.lowres.is_kept:
        yield from _configuration("", decisions.lowres.configuration, rules)


def planned_otherwise(
    plans: Mapping[str, Any], raw_dataset: RawDataset, fingerprint: Mapping[str, Any], preset: Mapping[str, Any]
) -> list[str]:
    """Configurations that these plans, made earlier or by hand, do not have as they would be planned now."""
    now = json.loads(json.dumps(plan_dataset(raw_dataset, fingerprint, preset, plans["plans_name"])))["configurations"]
    return [name for name, planned in now.items() if plans["configurations"].get(name) != planned]


def _data(raw_dataset: RawDataset, fingerprint: Mapping[str, Any]) -> Iterator[str]:
    shapes, spacings = np.array(fingerprint["shapes_after_crop"]), np.array(fingerprint["spacings"])
    left = fingerprint["median_relative_size_after_cropping"]
    names = list(raw_dataset.dataset_json["labels"])
    yield from _paragraph(
        "data",
        [
            f"{len(shapes)} cases, {len(raw_dataset.channel_names)} channel(s), {len(names)} labels or regions: "
            f"{', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}.",
            f"Cropping to the region with content leaves {_percent(left)} of an image (median).",
        ],
    )
    yield f"{'':{_MARGIN}}{'':26}{'smallest':>26}{'median':>26}{'largest':>26}"
    for title, values in (("voxels after cropping", shapes), ("spacing in mm", spacings)):
        columns = (_times(column) for column in (values.min(0), np.median(values, 0), values.max(0)))
        yield f"{'':{_MARGIN}}{title:26}" + "".join(f"{column:>26}" for column in columns)
    for channel, name in enumerate(raw_dataset.channel_names):
        found = fingerprint["foreground_intensity_properties_per_channel"][str(channel)]
        yield from _paragraph(
            "",
            [
                f"channel {channel} '{name}', foreground: mean {_number(found['mean'])}, deviation "
                f"{_number(found['std'])}, from {_number(found['min'])} to {_number(found['max'])}, 99 % of it from "
                f"{_number(found['percentile_00_5'])} to {_number(found['percentile_99_5'])}."
            ],
        )


def _spacing(rules: PlannerRules, decisions: Decisions, fingerprint: Mapping[str, Any]) -> Iterator[str]:
    choice = decisions.spacing
    if rules.target_spacing is not None:
        yield f"{_times(choice.spacing)} mm, as asked for; the median is {_times(choice.median_spacing)} mm."
        return
    others = [axis for axis in range(len(choice.spacing)) if axis != choice.coarsest]
    ratio = choice.median_spacing[choice.coarsest] / max(choice.median_spacing[others])
    share = choice.median_shape[choice.coarsest] / min(choice.median_shape[others])
    threshold = rules.anisotropy_threshold
    percentile = f"percentile {rules.anisotropic_axis_percentile:g} of all cases"
    facts = (
        f"axis {choice.coarsest} is the coarsest: {ratio:.3g} times the next one "
        f"({'more' if choice.is_coarse else 'not more'} than {threshold:g}), and {share:.3g} times as many voxels as "
        f"the shorter of the others ({'less' if choice.has_few_slices else 'not less'} than 1/{threshold:g})"
    )
    if choice.is_coarse and choice.has_few_slices:
        yield f"{_times(choice.spacing)} mm: the median ({_times(choice.median_spacing)} mm), but along axis "
        yield f"{choice.coarsest} {percentile}: {facts}."
        low = np.percentile(np.array(fingerprint["spacings"])[:, choice.coarsest], rules.anisotropic_axis_percentile)
        if choice.spacing[choice.coarsest] > low:
            yield f"That would be {low:.4g} mm, finer than the other axes, so it is theirs."
    else:
        yield f"{_times(choice.spacing)} mm, the median along each axis. An axis takes {percentile} if it is both much "
        yield f"coarser and much shorter than the others; {facts}."


def _axes(decisions: Decisions) -> Iterator[str]:
    forward = decisions.forward
    if forward == sorted(forward):
        yield "in the order of the images: axis 0 is the coarsest, or none is."
    else:
        yield f"in the order {', '.join(map(str, forward))}: the coarsest axis comes first, where slices are expected."
    yield f"The median image becomes {_times(decisions.median_shape)} voxels; all that follows is in this order."


def _normalisation(
    rules: PlannerRules, decisions: Decisions, raw_dataset: RawDataset, fingerprint: Mapping[str, Any]
) -> Iterator[str]:
    schemes, masks = (decisions.normalization[key] for key in ("normalization_schemes", "use_mask_for_norm"))
    for channel, (name, scheme, masked) in enumerate(zip(raw_dataset.channel_names, schemes, masks)):
        where = " within the region with content" if masked else ""
        yield f"channel {channel} '{name}': {scheme}{where}."
    if not any(SCHEMES[scheme].uses_mask for scheme in schemes):
        return
    left = fingerprint["median_relative_size_after_cropping"]
    below = rules.mask_for_norm_below_relative_size
    yield (
        f"A z-score is taken within the region with content if cropping leaves less than {_percent(below)}; "
        f"here it leaves {_percent(left)}."
    )


def _configuration(name: str, choice: ConfigurationChoice, rules: PlannerRules) -> Iterator[str]:
    yield from _paragraph(
        name, [f"{_times(choice.spacing)} mm, a median image of {_times(choice.median_shape)} voxels."]
    )
    yield from _paragraph("  patch", _patch(choice.fit, rules))
    yield from _paragraph("  batch", _batch(choice.fit, rules))
    yield from _paragraph("  network", _network(choice.fit, rules))


def _patch(fit: Fit, rules: PlannerRules) -> Iterator[str]:
    volume = rules.initial_patch_voxels[f"{len(fit.initial_patch)}d"]
    yield f"{_times(fit.topology.patch_size)} voxels. The search begins with {volume / 1e6:.3g} million voxels, as long"
    yield "in mm along each axis, cut to the median image and rounded to what the poolings divide: "
    yield f"{_times(fit.initial_patch)}."
    if fit.num_shrinkages:
        yield f"That was made smaller {fit.num_shrinkages} times, until a batch of {fit.smallest_batch} fitted, with"
    else:
        yield f"A batch of {fit.smallest_batch} fits, with"
    if rules.budget is None:
        yield f"{_number(fit.cost / 1e6)} million values in its feature maps; {_number(fit.budget / 1e6)} million"
        yield f"stand for {rules.memory_gb:g} GB."
    else:
        yield f"{_number(fit.cost)} thousand million multiply-adds an iteration; the budget is {_number(fit.budget)}."


def _batch(fit: Fit, rules: PlannerRules) -> Iterator[str]:
    if rules.budget is None:
        yield f"{fit.batch_size}. Memory would allow {fit.affordable_batch};"
    else:
        most = rules.budget.max_batch_size[f"{len(fit.initial_patch)}d"]
        yield f"{fit.batch_size}. The budget, but not more than {most:g}, would allow {fit.affordable_batch};"
    yield f"{_percent(rules.max_dataset_share_of_batch)} of the dataset's voxels make {fit.largest_batch}; fewer than"
    yield f"{rules.min_batch_size} are never taken."


def _network(fit: Fit, rules: PlannerRules) -> Iterator[str]:
    arguments = fit.architecture["arch_kwargs"]
    kernels = arguments["kernel_sizes"]
    poolings = ", ".join(f"{log2(divisor):.0f}" for divisor in fit.topology.divisors)
    yield f"{fit.architecture['network_class_name'].rpartition('.')[2]}, {fit.topology.num_stages} stages of"
    yield f"{'-'.join(map(str, arguments['features_per_stage']))} channels. The axes are halved {poolings} times: while"
    yield f"edges of {rules.min_feature_map_edge} are left, and voxels are not twice as long as along the finest axis."
    flat = sum(1 in kernel for kernel in kernels)
    if flat:
        yield f"{flat} stage(s) do not convolve along coarse axes; the first kernel is {_times(kernels[0])}."
    if rules.budget is not None:
        low, high = rules.budget.min_features, rules.budget.max_features
        yield f"Channels double from the widest beginning between {low} and {high} that the budget allows."
        if rules.full_resolution_features is not None:
            yield f"At full resolution there are not more than {rules.full_resolution_features}."


def _lowres(rules: PlannerRules, decisions: Decisions) -> Iterator[str]:
    lowres = decisions.lowres
    assert lowres is not None  # there is a 3d_fullres
    covered, threshold = _percent(lowres.share_at_fullres), _percent(rules.lowres_threshold)
    if lowres.configuration is None:
        yield f"not planned: the patch of 3d_fullres covers {covered} of the median image, not less than {threshold}."
        return
    yield f"the patch of 3d_fullres covers {covered} of the median image, less than {threshold}; at"
    yield f"{_times(lowres.configuration.spacing)} mm a patch covers {_percent(lowres.share)}. That image has"
    yield f"{lowres.shrinkage:.2f} times fewer voxels:"
    if lowres.is_kept:
        yield "so it is planned, and with it 3d_cascade_fullres, which refines its result."
    else:
        yield f"less than {rules.lowres_min_shrinkage:g} times, not worth a configuration of its own."


def _paragraph(title: str, sentences: Iterable[str]) -> Iterator[str]:
    """Words in lines of a screen's width, after a title in the margin."""
    line = f"{title:{_MARGIN}}"
    for word in " ".join(sentences).split():
        if len(line) + len(word) > _WIDTH:
            yield line.rstrip()
            line = " " * _MARGIN
        line += word + " "
    yield line.rstrip()


def _times(lengths: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
