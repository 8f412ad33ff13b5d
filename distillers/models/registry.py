"""The networks of this package by name; importing this module does not import torch.

Each entry is the constructor, as "module:constructor" in `distillers.models`, and the arguments
that precede `num_classes`.
"""

Entry = tuple[str, tuple[object, ...]]

_RESNETS = {
    **{f"resnet{depth}": (depth, 1) for depth in (8, 14, 20, 32, 38, 44, 56, 110, 116, 200)},
    **{f"resnet{depth}x2": (depth, 2) for depth in (14, 38, 110)},
    **{f"resnet{depth}x4": (depth, 4) for depth in (8, 14, 20, 26, 32, 38, 44, 56, 110)},
    "resnet8x4_double": (8, 8),
}
_WIDE_RESNETS = [(16, 1), (16, 2), (16, 4), (40, 1), (40, 2), (40, 4)]

SMALL_IMAGES: dict[str, Entry] = {
    **{name: ("resnet_cifar:ResNet", arguments) for name, arguments in _RESNETS.items()},
    **{f"wrn_{d}_{k}": ("wide_resnet_cifar:WideResNet", (d, k)) for d, k in _WIDE_RESNETS},
    **{f"vgg{depth}": ("vgg_cifar:VGG", (depth,)) for depth in (8, 11, 13, 16, 19)},
    "MobileNetV2": ("mobilenetv2_cifar:MobileNetV2", (0.5,)),
    "MobileNetV2_1_0": ("mobilenetv2_cifar:MobileNetV2", (1.0,)),
    "ShuffleV1": ("shufflenetv1_cifar:ShuffleNet", (3,)),
    "ShuffleV2": ("shufflenetv2_cifar:ShuffleNetV2", (1.0,)),
    "ShuffleV2_1_5": ("shufflenetv2_cifar:ShuffleNetV2", (1.5,)),
    "ResNet50": ("resnet50_cifar:ResNet50", ()),
}

LARGE_IMAGES: dict[str, Entry] = {
    "ResNet18": ("resnet_imagenet:basic_resnet", ((2, 2, 2, 2), 1)),
    "ResNet34": ("resnet_imagenet:basic_resnet", ((3, 4, 6, 3), 1)),
    "ResNet50": ("resnet_imagenet:bottleneck_resnet", ((3, 4, 6, 3), 1, 64)),
    "ResNet10x2": ("resnet_imagenet:basic_resnet", ((1, 1, 1, 1), 2)),
    "ResNet18x2": ("resnet_imagenet:basic_resnet", ((2, 2, 2, 2), 2)),
    "ResNet34x2": ("resnet_imagenet:basic_resnet", ((3, 4, 6, 3), 2)),
    "resnext50_32x4d": ("resnet_imagenet:bottleneck_resnet", ((3, 4, 6, 3), 32, 4)),
    "wrn_50_2": ("resnet_imagenet:bottleneck_resnet", ((3, 4, 6, 3), 1, 128)),
    "MobileNetV2_Imagenet": ("torchvision_mobile:mobilenet_v2", ()),
    "ShuffleV2_Imagenet": ("torchvision_mobile:shufflenet_v2", ()),
}

# Networks with published weights, and their names in torchvision.
PUBLISHED = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "resnext50_32x4d": "resnext50_32x4d",
    "wrn_50_2": "wide_resnet50_2",
    "MobileNetV2_Imagenet": "mobilenet_v2",
    "ShuffleV2_Imagenet": "shufflenet_v2_x1_0",
}
