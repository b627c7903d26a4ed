"""Segmentation networks, and how they are built from plans."""

from framework.networks.build import build_network
from framework.networks.nnunet_names import from_nnunet_state, to_nnunet_state
from framework.networks.unet import PlainConvUNet, ResidualEncoderUNet

__all__ = ["PlainConvUNet", "ResidualEncoderUNet", "build_network", "from_nnunet_state", "to_nnunet_state"]
