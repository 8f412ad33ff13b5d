"""Mobile networks for ImageNet: those of torchvision, with their taps declared.

Sandler et al., "MobileNetV2", CVPR 2018, arXiv:1801.04381, and Ma et al., "ShuffleNet V2", ECCV
2018, arXiv:1807.11164, both at width 1.

`ShuffleV2_Imagenet` of older distillation code lacks the last convolution of the paper and of
torchvision; its checkpoints do not fit this one.
"""

from torch import nn
from torchvision import models

from distillers.features.taps import Taps


def mobilenet_v2(num_classes: int = 1000) -> nn.Module:
    """Build torchvision's MobileNetV2; its linear bottlenecks equal their pre-activations."""
    net = models.mobilenet_v2(num_classes=num_classes)
    taps = Taps(
        maps=("features.3", "features.6", "features.13", "features.17"),
        head="classifier.1",
        stem="features.0",
        final="features.18",
        preacts=("features.4", "features.7", "features.14", "features.18"),
    )
    return _with_taps(net, taps)


def shufflenet_v2(num_classes: int = 1000) -> nn.Module:
    """Build torchvision's ShuffleNetV2.

    It has no pre-activations to read: blocks activate in place, and only half of their channels.
    """
    net = models.shufflenet_v2_x1_0(num_classes=num_classes)
    taps = Taps(maps=("stage2", "stage3", "stage4"), head="fc", stem="maxpool", final="conv5")
    return _with_taps(net, taps)


def _with_taps(net: nn.Module, taps: Taps) -> nn.Module:
    object.__setattr__(net, "taps", taps)  # nn.Module's annotations allow tensors and modules only
    return net
