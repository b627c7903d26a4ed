"""nnU-Net plans from before the ``architecture`` object (2022-2024), brought to the current form."""

from __future__ import annotations

from typing import Any

from framework.validation import convert, describe, shown

_LEGACY_KEYS = (
    "UNet_class_name",
    "UNet_base_num_features",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
    "num_pool_per_axis",
    "pool_op_kernel_sizes",
    "conv_kernel_sizes",
    "unet_max_num_features",
)
_CLASSES = {
    "PlainConvUNet": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "ResidualEncoderUNet": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
}


_FORMS: dict[str, Any] = {
    "patch_size": list[int],
    "UNet_class_name": str,
    "UNet_base_num_features": int,
    "unet_max_num_features": int,
    "n_conv_per_stage_encoder": list[int],
    "n_conv_per_stage_decoder": list[int],
    "conv_kernel_sizes": list[Any],
    "pool_op_kernel_sizes": list[Any],
}
"""What the old form must have for the new one to be made of it."""


def modernised(plans: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The same plans in the current form; current plans are returned unchanged. Changes its argument.

    Configurations of the old form that cannot be read stay as they are; what is wrong is appended to `problems`.
    """
    if "foreground_intensity_properties_by_modality" in plans:
        statistics = plans.pop("foreground_intensity_properties_by_modality")
        plans.setdefault("foreground_intensity_properties_per_channel", statistics)
    for name, entry in plans["configurations"].items():
        if isinstance(entry, dict) and "UNet_class_name" in entry and "architecture" not in entry:
            wrong = [
                f"configurations.{name}.{key}: found {shown(entry.get(key))}, expected {describe(form)}."
                for key, form in _FORMS.items()
                if not _fits(entry.get(key), form)
            ]
            problems += wrong
            if not wrong:
                plans["configurations"][name] = _with_architecture(entry)
    return plans


def _with_architecture(entry: dict[str, Any]) -> dict[str, Any]:
    dimensions = len(entry["patch_size"])
    encoder_convs = entry["n_conv_per_stage_encoder"]
    base, most = entry["UNet_base_num_features"], entry["unet_max_num_features"]
    residual = entry["UNet_class_name"] == "ResidualEncoderUNet"
    conv_op = f"torch.nn.modules.conv.Conv{dimensions}d"
    norm_op = f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d"
    current = {key: value for key, value in entry.items() if key not in _LEGACY_KEYS}
    current["architecture"] = {
        "network_class_name": _CLASSES.get(entry["UNet_class_name"], entry["UNet_class_name"]),
        "arch_kwargs": {
            "n_stages": len(encoder_convs),
            "features_per_stage": [min(base * 2**stage, most) for stage in range(len(encoder_convs))],
            "conv_op": conv_op,
            "kernel_sizes": entry["conv_kernel_sizes"],
            "strides": entry["pool_op_kernel_sizes"],
            "n_blocks_per_stage" if residual else "n_conv_per_stage": encoder_convs,
            "n_conv_per_stage_decoder": entry["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": norm_op,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    return current


def _fits(value: Any, form: Any) -> bool:
    try:
        convert(value, form)
    except TypeError:
        return False
    return True
