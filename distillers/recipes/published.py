"""The published weights of every method, by protocol.

`crd` is the protocol of Tian et al. 2020 (arXiv 1910.10699) as RepDistiller runs it: cross-entropy
1 and no KL divergence beside a method, plain KD .1 / .9, last epoch. `simkd` is that of Chen et al.
2022 (arXiv 2203.14001): cross-entropy 1 and KL divergence 1 beside every method, best test epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How a method is weighted.

    Attributes:
        ce: weight of the cross-entropy.
        kd: weight of the KL divergence to the teacher's logits.
        method: weight of the method's own loss.
        options: options of the method that the protocol sets otherwise than its paper.
    """

    ce: float = 1.0
    kd: float = 0.0
    method: float = 1.0
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


# Run scripts of RepDistiller, and of the repositories that use its protocol.
CRD = {
    "ce": Recipe(method=0),
    "kd": Recipe(ce=0.1, kd=0.9, method=0),
    "fitnet": Recipe(method=100, options={"hint_layer": 2}),
    "at": Recipe(method=1000),
    "sp": Recipe(method=3000),
    "cc": Recipe(method=0.02),
    "vid": Recipe(method=1),
    "rkd": Recipe(method=1),
    "pkt": Recipe(method=30000),
    "ab": Recipe(method=1),
    "ft": Recipe(method=200),
    "fsp": Recipe(method=50),
    "nst": Recipe(method=50),
    "kdsvd": Recipe(method=1),
    "crd": Recipe(method=0.8),
    "rrd": Recipe(method=1),
    "dcd": Recipe(method=1),
    "srrl": Recipe(method=1),
    "semckd": Recipe(method=400),
    "simkd": Recipe(ce=0, method=1),
    # Their own papers and repositories, on the same schedule.
    "itrd": Recipe(method=1),
    "wsld": Recipe(method=2.5),
    "dkd": Recipe(method=1, options={"ramp": 20 / 240}),
    "dist": Recipe(method=2),
    "nkd": Recipe(method=1),
    "ofd": Recipe(method=1e-3),
    "reviewkd": Recipe(method=5, options={"ramp": 20 / 240}),
}

# Run scripts of SimKD and SemCKD.
SIMKD = {
    "ce": Recipe(method=0),
    "kd": Recipe(kd=1, method=0),
    "fitnet": Recipe(kd=1, method=100, options={"hint_layer": 1}),
    "at": Recipe(kd=1, method=1000),
    "sp": Recipe(kd=1, method=3000),
    "cc": Recipe(kd=1, method=0.02),
    "vid": Recipe(kd=1, method=1),
    "rkd": Recipe(kd=1, method=1),
    "pkt": Recipe(kd=1, method=30000),
    "crd": Recipe(kd=1, method=0.8),
    "srrl": Recipe(kd=1, method=1),
    "semckd": Recipe(kd=1, method=400),
    "simkd": Recipe(ce=0, method=1),
}

PROTOCOLS = {"crd": CRD, "simkd": SIMKD}
SLOW_STUDENTS = ("MobileNetV2", "MobileNetV2_1_0", "ShuffleV1", "ShuffleV2", "ShuffleV2_1_5")


def recipe(protocol: str, method: str) -> Recipe:
    """The weights of a method under a protocol.

    A method that a protocol never ran takes the other's weight of the method itself, and one that
    neither ran takes 1, beside the cross-entropy and KL weights that the protocol gives to all.
    """
    if method in PROTOCOLS[protocol]:
        return PROTOCOLS[protocol][method]
    known = CRD.get(method, Recipe())
    return Recipe(
        ce=1, kd=1 if protocol == "simkd" else 0, method=known.method, options=known.options
    )


def learning_rate(network: str, image_size: int) -> float:
    """The published initial rate for CIFAR-sized images; 0.1 for ImageNet's."""
    if image_size > 64:
        return 0.1
    return 0.01 if network in SLOW_STUDENTS else 0.05
