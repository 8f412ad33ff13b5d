"""Published weights and options of each method, by protocol.

`crd` is the protocol of Tian et al. 2020 (arXiv 1910.10699) as RepDistiller runs it: cross-entropy
1 and no KL divergence beside a method, plain KD .1 / .9, last epoch. `simkd` is that of Chen et al.
2022 (arXiv 2203.14001): cross-entropy 1 and KL divergence 1 beside every method, best test epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distillers.distillation import pair_recipes

REPDISTILLER = "run scripts of HobbitLong/RepDistiller"
DISTILLERS = "run scripts of giakoumoglou/distillers"
SIMKD_SCRIPTS = "run scripts of DefangChen/SimKD"
SEMCKD_SCRIPTS = "run scripts of DefangChen/SemCKD"
MDISTILLER = "configurations of megvii-research/mdistiller"
CLS_KD = "configurations of yzd-v/cls_KD"

# The documented methods, in the order of the tables.
ELEVEN = ("kd", "fitnet", "at", "sp", "vid", "crd", "srrl", "semckd", "simkd", "rrd", "dcd")


@dataclass(frozen=True)
class Recipe:
    """Weights and options of a method.

    Attributes:
        ce: weight of the cross-entropy.
        kd: weight of the KL divergence to the teacher's logits.
        method: weight of the method's own loss.
        options: options of the method that differ from the defaults.
        kd_options: the same of the KL divergence beside it.
        source: where the numbers are published.
    """

    ce: float = 1.0
    kd: float = 0.0
    method: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    kd_options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "no published run; the protocol's weights beside 1"

    def weights(self, method: str) -> dict[str, float]:
        """Return the weight of each loss by name, as `distillers.distil` takes them."""
        base = {"ce": self.ce, "kd": self.kd}
        return base if method in base else {**base, method: self.method}


CRD = {
    "ce": Recipe(method=0, source=REPDISTILLER),
    "kd": Recipe(ce=0.1, kd=0.9, method=0, source=REPDISTILLER),
    "fitnet": Recipe(method=100, options={"hint_layer": 2}, source=REPDISTILLER),
    "at": Recipe(method=1000, source=REPDISTILLER),
    "sp": Recipe(method=3000, source=REPDISTILLER),
    "cc": Recipe(method=0.02, source=REPDISTILLER),
    "vid": Recipe(method=1, source=REPDISTILLER),
    "rkd": Recipe(method=1, source=REPDISTILLER),
    "pkt": Recipe(method=30000, source=REPDISTILLER),
    "ab": Recipe(method=1, source=REPDISTILLER),
    "ft": Recipe(method=200, source=REPDISTILLER),
    "fsp": Recipe(method=50, source=REPDISTILLER),
    "nst": Recipe(method=50, source=REPDISTILLER),
    "kdsvd": Recipe(method=1, source="default of RepDistiller; mdistiller too"),
    "crd": Recipe(method=0.8, source=REPDISTILLER),
    "simkd": Recipe(ce=0, method=1, source=SIMKD_SCRIPTS),  # its loss replaces the cross-entropy
    "rrd": Recipe(method=1, source=DISTILLERS),
    "rrdmomentum": Recipe(method=1, source=DISTILLERS),
    "dcd": Recipe(method=1, source="README of giakoumoglou/distillers"),
    "itrd": Recipe(method=1, source="README of roymiles/ITRD; its factors are options"),
    "wsld": Recipe(method=2.25, options={"temperature": 4.0}, source=CLS_KD),
    "nkd": Recipe(options={"temperature": 3.0, "gamma": 3.5}, source=CLS_KD),
    "dkd": Recipe(method=1, options={"ramp": 20 / 240}, source=MDISTILLER),
    "dist": Recipe(method=2, source="configuration of hunto/DIST_KD"),
    "ofd": Recipe(method=1e-3, source=MDISTILLER),
    "reviewkd": Recipe(method=5, options={"ramp": 20 / 240}, source=MDISTILLER),
    "rld": Recipe(options={"ramp": 20 / 240}, source="configurations of zju-SWJ/RLD"),
    "ttm": Recipe(method=45, source="README of zkxufo/TTM, vgg13 to vgg8"),
    "wttm": Recipe(method=4, source="README of zkxufo/TTM, beside CRD with 0.8"),
    "normkd": Recipe(ce=0.1, method=0.9, source="arXiv 2308.00520, CIFAR-100"),
    "luminet": Recipe(
        ce=2,
        options={"ramp": 20 / 240},
        source="configurations of LumiNet, resnet32x4 to resnet8x4",
    ),
    "ctkd": Recipe(ce=0.1, method=0.9, source="scripts of zhengli97/CTKD"),
    "wkdl": Recipe(source="configuration of JiamingLv/WKD, resnet32x4 to resnet8x4"),
    "srd": Recipe(source="code of roymiles/Simple-Recipe-Distillation, ImageNet"),
    "vkd": Recipe(kd=1, kd_options={"temperature": 1.0}, source="roymiles/vkd, DeiT on ImageNet"),
    "ickd": Recipe(method=2.5, source="README of ADLab-AutoDrive/ICKD"),
    "embedmatch": Recipe(ce=0, source="UNIC, without labels"),
    "mapmatch": Recipe(ce=0, source="UNIC, without labels"),
    "queuekl": Recipe(ce=0, source="distillation of lightly-train, without labels"),
    "wkdf": Recipe(method=0.08, source="configuration of JiamingLv/WKD, resnet32x4 to resnet8x4"),
    "catkd": Recipe(
        method=15, source="configurations of GzyAftermath/CAT-KD, vgg13 to MobileNetV2"
    ),
    "sdd": Recipe(ce=0.1, method=0.9, source="scripts of shicaiwei123/SDD-CVPR2024, around KD"),
    "mlkd": Recipe(
        ce=0.1, method=0.9, source="configurations of Jin-Ying/Multi-Level-Logit-Distillation"
    ),
    "crld": Recipe(source="configurations of haiduo/DeepKD, resnet32x4 to resnet8x4"),
    "skd": Recipe(ce=0.1, method=0.9, source="HyunJunSik/StreamLined, where each pair has its own"),
    "ofa": Recipe(source="configuration of Hao840/OFAKD, CIFAR-100"),
    "vitkd": Recipe(source="configuration of yzd-v/cls_KD, DeiT on ImageNet"),
    "mgd": Recipe(method=7e-5, source="configuration of yzd-v/MGD, ImageNet"),
    "distplus": Recipe(method=2, source="sample configuration of torchdistill, without a result"),
}

SIMKD = {
    "ce": Recipe(method=0, source=SIMKD_SCRIPTS),
    "kd": Recipe(kd=1, method=0, source=SIMKD_SCRIPTS),
    "fitnet": Recipe(kd=1, method=100, options={"hint_layer": 1}, source=SIMKD_SCRIPTS),
    "at": Recipe(kd=1, method=1000, source=SIMKD_SCRIPTS),
    "sp": Recipe(kd=1, method=3000, source=SIMKD_SCRIPTS),
    "cc": Recipe(kd=1, method=0.02, source=SEMCKD_SCRIPTS),
    "vid": Recipe(kd=1, method=1, source=SIMKD_SCRIPTS),
    "rkd": Recipe(kd=1, method=1, source=SEMCKD_SCRIPTS),
    "pkt": Recipe(kd=1, method=30000, source=SEMCKD_SCRIPTS),
    "crd": Recipe(kd=1, method=0.8, source=SIMKD_SCRIPTS),
    "srrl": Recipe(kd=1, method=1, source=SIMKD_SCRIPTS),
    "semckd": Recipe(kd=1, method=400, source=SIMKD_SCRIPTS),
    "simkd": Recipe(ce=0, method=1, source=SIMKD_SCRIPTS),
    "irg": Recipe(kd=1, method=0.005, source=SEMCKD_SCRIPTS),
    "hkd": Recipe(kd=1, source=SEMCKD_SCRIPTS),
    "sdd": Recipe(source="no published run; SDD takes the place of KD"),
}

PROTOCOLS = {"crd": CRD, "simkd": SIMKD}

# Numbers for ImageNet that differ from those for CIFAR.
IMAGENET = {
    "crd": {
        "kd": Recipe(ce=0.5, kd=0.9, method=0, source="RepDistiller, issue 10"),
        "srrl": Recipe(method=1, source="defaults of the ImageNet script of KD_SRRL"),
        "dkd": Recipe(
            options={"ramp": 1 / 100, "temperature": 1.0, "beta": 0.5}, source=MDISTILLER
        ),
        "dist": Recipe(method=2, options={"temperature": 1.0}, source="hunto/DIST_KD"),
        "ofd": Recipe(method=1e-4, source=MDISTILLER),
        "wsld": Recipe(method=2.5, source="code of bellymonster/Weighted-Soft-Label-Distillation"),
        "nkd": Recipe(source=CLS_KD),
        "reviewkd": Recipe(method=1, options={"ramp": 1 / 100}, source=MDISTILLER),
        "rld": Recipe(
            options={"ramp": 1 / 100, "temperature": 1.0, "beta": 0.5},
            source="configurations of zju-SWJ/RLD, ResNet34 to ResNet18",
        ),
        "normkd": Recipe(
            ce=0.5, method=0.5, options={"temperature": 1.0}, source="arXiv 2308.00520, ImageNet"
        ),
        "luminet": Recipe(
            options={"ramp": 1 / 100, "alpha": 2.0, "temperature": 0.7},
            source="configurations of LumiNet",
        ),
        "ctkd": Recipe(options={"rise": 5 / 120}, source="ImageNet script of zhengli97/CTKD"),
        "mlkd": Recipe(
            ce=0.5,
            method=0.5,
            options={"temperatures": (1.0, 3.0, 5.0, 2.0, 6.0)},
            source="configurations of Jin-Ying/Multi-Level-Logit-Distillation",
        ),
        "crld": Recipe(
            ce=2, options={"temperature": 1.0}, source="configurations of haiduo/DeepKD"
        ),
        "catkd": Recipe(
            method=10, source="configurations of GzyAftermath/CAT-KD, ResNet50 to MBV1"
        ),
        "wkdl": Recipe(
            options={"gamma": 30.0, "temperature": 2.0, "decay_from": 0.0},
            source="configurations of JiamingLv/WKD, ResNet34 to ResNet18",
        ),
        "wkdf": Recipe(
            method=0.02,
            options={"mean_weight": 2.0, "grid": 4, "projector": "bottleneck", "decay_from": 0.0},
            source="configurations of JiamingLv/WKD, ResNet34 to ResNet18",
        ),
        "ickd": Recipe(
            ce=0.5,
            kd=0.5,
            method=1.95,
            kd_options={"temperature": 1.0},
            source="ImageNet code of ADLab-AutoDrive/ICKD: 500 / 256, with 3 x 3 convolutions",
        ),
    },
    "simkd": {"semckd": Recipe(kd=1, method=50, source=SEMCKD_SCRIPTS)},
}

# Weights published for single students: method, student.
STUDENTS: dict[tuple[str, str | None], float] = {  # scripts of ReviewKD
    ("reviewkd", "ShuffleV2"): 8.0,
    ("reviewkd", "resnet20"): 0.6,
    ("reviewkd", "resnet32"): 1.0,
}
SLOW_STUDENTS = ("MobileNetV2", "MobileNetV2_1_0", "ShuffleV1", "ShuffleV2", "ShuffleV2_1_5")


def recipe(
    protocol: str,
    method: str,
    *,
    dataset: str = "cifar100",
    teacher: str | None = None,
    student: str | None = None,
) -> Recipe:
    """Return the weights of a method under a protocol.

    For a method that a protocol does not include, weight and options are those of the other
    protocol, or 1 and the defaults if neither includes it; the weights of cross-entropy and KL
    divergence are those that the protocol uses for all methods.

    Args:
        protocol: "crd" or "simkd".
        method: a loss by its name on the command line.
        dataset: "imagenet" has its own numbers; all others use those of CIFAR-100.
        teacher: name of the teacher, for pairs with special numbers.
        student: name of the student, for the same.
    """
    found = _of_protocol(protocol, method, dataset)
    if dataset != "imagenet":
        found = replace(found, method=STUDENTS.get((method, student), found.method))
    pairs = pair_recipes.IMAGENET if dataset == "imagenet" else pair_recipes.CIFAR
    own = pairs.get((method, teacher or "", student or ""))
    if own is None:
        return found
    return replace(
        found,
        ce=found.ce if own.ce is None or protocol == "simkd" else own.ce,
        method=found.method if own.method is None else own.method,
        options={**found.options, **own.options},
        source=own.source or found.source,
    )


def _of_protocol(protocol: str, method: str, dataset: str) -> Recipe:
    if dataset == "imagenet" and method in IMAGENET[protocol]:
        return IMAGENET[protocol][method]
    if method in PROTOCOLS[protocol]:
        return PROTOCOLS[protocol][method]
    other = "crd" if protocol == "simkd" else "simkd"
    known = PROTOCOLS[other].get(method, Recipe())
    if dataset == "imagenet":
        known = IMAGENET[other].get(method, known)
    return replace(known, ce=1.0, kd=1 if protocol == "simkd" else 0.0)


def learning_rate(network: str, image_size: int) -> float:
    """Return the published initial learning rate for CIFAR; 0.1 for larger images."""
    if image_size > 64:
        return 0.1
    return 0.01 if network in SLOW_STUDENTS else 0.05
