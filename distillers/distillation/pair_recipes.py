"""Published weights and options of single pairs of teacher and student."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class PairRecipe(NamedTuple):
    """What is published for a pair beside or instead of the numbers for all pairs.

    Attributes:
        source: where the numbers are published; that of the numbers for all pairs if empty.
        options: options of the method.
        method: weight of the method's own loss, if it has its own.
        ce: weight of the cross-entropy with the protocol crd, if it has its own.
    """

    source: str = ""
    options: Mapping[str, Any] = {}
    method: float | None = None
    ce: float | None = None


Pair = tuple[str, ...]  # method, teacher, student

SDD = "scripts of shicaiwei123/SDD-CVPR2024"
CAT = "configurations of GzyAftermath/CAT-KD"
CRLD = "configurations of haiduo/DeepKD"
LUMINET = "configurations of LumiNet"
WKD = "configurations of JiamingLv/WKD"

MIXED = (
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
    ("wrn_40_2", "ShuffleV1"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "MobileNetV2"),
    ("ResNet50", "vgg8"),
)


def _catkd(weight: float, resolution: int, normalise: bool) -> PairRecipe:
    return PairRecipe(CAT, {"resolution": resolution, "normalise": normalise}, weight)


def _luminet(alpha: float, temperature: float, ce: float) -> PairRecipe:
    return PairRecipe(LUMINET, {"alpha": alpha, "temperature": temperature}, ce=ce)


CIFAR: dict[Pair, PairRecipe] = {
    ("dkd", "resnet56", "resnet20"): PairRecipe(options={"beta": 2.0}),
    ("dkd", "resnet110", "resnet32"): PairRecipe(options={"beta": 2.0}),
    ("dkd", "wrn_40_2", "wrn_16_2"): PairRecipe(options={"beta": 6.0}),
    ("dkd", "wrn_40_2", "wrn_40_1"): PairRecipe(options={"beta": 6.0}),
    ("dkd", "vgg13", "vgg8"): PairRecipe(options={"beta": 6.0}),
    ("dkd", "vgg13", "MobileNetV2"): PairRecipe(options={"beta": 6.0}),
    ("crld", "resnet110", "resnet20"): PairRecipe(CRLD, {"within": 1.0}),
    ("crld", "resnet110", "resnet32"): PairRecipe(CRLD, {"within": 1.0}),
    ("crld", "wrn_40_2", "resnet8x4"): PairRecipe(CRLD, {"within": 1.0}),
    ("crld", "resnet56", "resnet20"): PairRecipe(CRLD, {"within": 0.5}),
    ("crld", "wrn_40_2", "wrn_40_1"): PairRecipe(CRLD, {"within": 0.5}),
    ("crld", "resnet32x4", "ShuffleV2"): PairRecipe(CRLD, {"within": 0.5}),
    ("luminet", "vgg13", "vgg8"): _luminet(70.0, 8.0, 1),
    ("luminet", "vgg13", "MobileNetV2"): _luminet(70.0, 8.0, 2),
    ("luminet", "ResNet50", "MobileNetV2"): _luminet(70.0, 8.0, 2),
    ("luminet", "wrn_40_2", "wrn_40_1"): _luminet(75.0, 8.0, 1),
    ("luminet", "wrn_40_2", "ShuffleV1"): _luminet(35.0, 4.0, 1),
    ("wkdl", "wrn_40_2", "ShuffleV1"): PairRecipe(WKD, {"gamma": 200.0, "temperature": 6.0}),
    ("wkdf", "wrn_40_2", "ShuffleV1"): PairRecipe(WKD, {"mean_weight": 3.0, "grid": 4}, 0.3),
    **{("sdd", *pair): PairRecipe(SDD, {"scales": (1, 2, 4)}) for pair in MIXED},
    ("catkd", "resnet110", "resnet32"): _catkd(1.8, 2, False),
    ("catkd", "resnet56", "resnet20"): _catkd(0.7, 2, False),
    ("catkd", "resnet32x4", "resnet8x4"): _catkd(15, 2, False),
    ("catkd", "vgg13", "vgg8"): _catkd(4.5, 2, False),
    ("catkd", "wrn_40_2", "wrn_16_2"): _catkd(12, 2, False),
    ("catkd", "wrn_40_2", "wrn_40_1"): _catkd(1.5, 2, False),
    ("catkd", "resnet32x4", "ShuffleV1"): _catkd(600, 4, True),
    ("catkd", "resnet32x4", "ShuffleV2"): _catkd(600, 4, True),
    ("catkd", "wrn_40_2", "ShuffleV1"): _catkd(80, 4, True),
    ("catkd", "ResNet50", "MobileNetV2"): _catkd(40, 2, True),
    ("skd", "resnet32x4", "resnet8x4"): PairRecipe(
        "code of HyunJunSik/StreamLined", method=0.5, ce=0.5
    ),
}

IMAGENET: dict[Pair, PairRecipe] = {
    ("catkd", "ResNet34", "ResNet18"): _catkd(0.5, 4, False),
    ("ofa", "timm:deit_tiny_patch16_224", "ResNet18"): PairRecipe(
        "command of Hao840/OFAKD, ImageNet", {"power": 1.5}
    ),
}
