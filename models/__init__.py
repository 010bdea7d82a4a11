"""Trunks, prototypes and the model that joins them.

A trunk is a network (B, 3, T, H, W) -> (B, out_channels, t, h, w) with its `stride` (t, h, w). Its class names the
`depths` it comes in, empty where there is only one; the `options` of its constructor that flags set; and its default
`strides` in time and space, None where they cannot be changed.
"""

from models.densenet3d import DenseNet3D
from models.hipe import HIPE, HIPEOutput
from models.huggingface_video import VJEPA2, TimeSformer, VideoMAE, ViViT
from models.i3d import I3D
from models.i3d_resnet50 import I3DResNet50
from models.mfnet import MFNet
from models.preresnet3d import PreActResNet3D
from models.prototypes import PrototypeLayer
from models.resnet2p1d import ResNet2Plus1D
from models.resnet3d import ResNet3D
from models.resnext3d import ResNeXt3D
from models.torchvision_video import MC318, R3D18, S3D, MViTV1B, MViTV2S, R2Plus1D18, Swin3DB, Swin3DS, Swin3DT
from models.trunk import Trunk
from models.tsm import TSMMobileNetV2, TSMResNet50
from models.wideresnet3d import WideResNet3D

TRUNKS = {
    "resnet": ResNet3D, "preresnet": PreActResNet3D, "wideresnet": WideResNet3D, "resnext": ResNeXt3D,
    "resnet2p1d": ResNet2Plus1D, "densenet": DenseNet3D, "r3d_18": R3D18, "mc3_18": MC318, "r2plus1d_18": R2Plus1D18,
    "s3d": S3D, "mvit_v1_b": MViTV1B, "mvit_v2_s": MViTV2S, "swin3d_t": Swin3DT, "swin3d_s": Swin3DS,
    "swin3d_b": Swin3DB, "i3d": I3D, "i3d_resnet50": I3DResNet50,
    "tsm_resnet50": TSMResNet50, "tsm_mobilenetv2": TSMMobileNetV2, "mfnet": MFNet, "videomae": VideoMAE,
    "vjepa2": VJEPA2, "vivit": ViViT, "timesformer": TimeSformer}

DEPTHS = {depth for trunk in TRUNKS.values() for depth in trunk.depths}  # of all trunks, for --model_depth

__all__ = ["DEPTHS", "HIPE", "TRUNKS", "HIPEOutput", "PrototypeLayer", "ResNet3D", "Trunk"]
