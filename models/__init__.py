"""Trunks, prototypes and the model that joins them."""

from models.hipe import HIPE, HIPEOutput
from models.prototypes import PrototypeLayer
from models.resnet3d import ResNet3D

TRUNKS = {"resnet": ResNet3D}

__all__ = ["HIPE", "TRUNKS", "HIPEOutput", "PrototypeLayer", "ResNet3D"]
