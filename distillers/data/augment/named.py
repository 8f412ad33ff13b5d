"""Build augmentation policies by name.

RandAugment: "RandAugment: Practical automated data augmentation with a reduced search space",
Cubuk, Zoph, Shlens and Le, 2020, https://arxiv.org/abs/1909.13719.
AutoAugment: "AutoAugment: Learning Augmentation Policies from Data", Cubuk et al., 2019, https://arxiv.org/abs/1805.09501.
TrivialAugment: "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", Müller and
Hutter, 2021, https://arxiv.org/abs/2103.10158; its wide space.
AugMix: "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", Hendrycks,
Mu, Cubuk, Zoph, Gilmer and Lakshminarayanan, 2020, https://arxiv.org/abs/1912.02781.
"fixmatch" is the RandAugment of "FixMatch: Simplifying Semi-Supervised Learning with Consistency
and Confidence", Sohn et al., 2020, https://arxiv.org/abs/2001.07685, with random magnitudes and a
square cut out, as the public code of MLKD and CRLD has it.

The first, second and fourth are read from timm's tables.
"""

from collections.abc import Callable, Sequence

import numpy as np

from distillers.config.augmentation import LEVELS, PolicySpec
from distillers.data.augment.operations import OPERATIONS, Operation, sign_of
from distillers.data.augment.policies import (
    AugMixPolicy,
    Choice,
    FixMatchPolicy,
    Policy,
    RandomPolicy,
    SequencePolicy,
    uniform_choice,
)

UNIFORM_ABOVE = 100  # of timm's mstd: magnitudes are then uniform from 0
BINS = 31  # magnitudes of an operation of TrivialAugment


def build_policy(policy: PolicySpec) -> Policy:
    """Return the policy that a text describes."""
    return _BUILDERS.get(policy.name, _autoaugment)(policy)


def _choices(
    names: Sequence[str], policy: PolicySpec, magnitude: float, prob: float, std: float
) -> list[Choice]:
    std = np.inf if std > UNIFORM_ABOVE else std
    return [Choice(OPERATIONS[name], magnitude, prob, std, policy.highest) for name in names]


def _randaugment(policy: PolicySpec) -> Policy:
    from timm.data.auto_augment import rand_augment_choices  # is slow to import

    given = policy.settings
    found = rand_augment_choices(policy.operations, increasing=bool(given.get("inc")))
    weights = list(found.values()) if isinstance(found, dict) else None
    magnitude, std = given.get("m", LEVELS), given.get("mstd", 0)
    choices = _choices(list(found), policy, magnitude, given.get("p", 0.5), std)
    return RandomPolicy(choices, int(given.get("n", 2)), weights)


def _autoaugment(policy: PolicySpec) -> Policy:
    from timm.data.auto_augment import auto_augment_policy

    std = policy.settings.get("mstd", 0.0)
    return SequencePolicy(
        [
            [Choice(OPERATIONS[op.name], op.magnitude, op.prob, std) for op in sequence]
            for sequence in auto_augment_policy(policy.name)
        ]
    )


def _augmix(policy: PolicySpec) -> Policy:
    from timm.data.auto_augment import augmix_ops

    given = policy.settings
    names = [op.name for op in augmix_ops()]
    choices = _choices(names, policy, given.get("m", 3), 1.0, given.get("mstd", np.inf))
    width, depth = int(given.get("w", 3)), int(given.get("d", 0))
    return AugMixPolicy(choices, width, depth, given.get("a", 1.0))


def _fixmatch(_: PolicySpec) -> Policy:
    enhanced = ("brightness", "color", "contrast", "sharpness")
    return FixMatchPolicy(
        [
            *(uniform_choice(kernel, 0.05, 0.95) for kernel in enhanced),
            *(uniform_choice(kernel, -0.3, 0.3) for kernel in ("shear_x", "shear_y")),
            *(uniform_choice(kernel, -0.3, 0.3) for kernel in ("translate_x", "translate_y")),
            uniform_choice("rotate", -30, 30),
            uniform_choice("posterize", 4, 8, np.floor),
            uniform_choice("solarize", 0, 256),
            *(uniform_choice(kernel, 0, 1) for kernel in ("autocontrast", "equalize", "")),
        ]
    )


def _trivial_choice(kernel: str, start: float, most: float, signed: bool = True) -> Choice:
    """Return an operation of TrivialAugment: one of 31 magnitudes, from `start` to +-`most`."""

    def argument(level: np.ndarray, draw: np.ndarray) -> np.ndarray:
        share = np.minimum(np.floor(level), BINS - 1) / (BINS - 1)
        found = start + (sign_of(draw) if signed else 1) * share * most
        return np.round(found) if kernel == "posterize" else found

    return Choice(Operation(kernel, argument), BINS, std=np.inf, highest=BINS)


def _trivial(_: PolicySpec) -> Policy:
    enhanced = ("brightness", "color", "contrast", "sharpness")
    return RandomPolicy(
        [
            *(_trivial_choice(kernel, 1, 0.99) for kernel in enhanced),
            *(_trivial_choice(kernel, 0, 0.99) for kernel in ("shear_x", "shear_y")),
            *(_trivial_choice(kernel, 0, 32) for kernel in ("move_x", "move_y")),
            _trivial_choice("rotate", 0, 135),
            _trivial_choice("posterize", 8, -6, signed=False),
            _trivial_choice("solarize", 255, -255, signed=False),
            *(_trivial_choice(kernel, 0, 0) for kernel in ("autocontrast", "equalize", "")),
        ],
        1,
    )


_BUILDERS: dict[str, Callable[[PolicySpec], Policy]] = {
    "rand": _randaugment,
    "augmix": _augmix,
    "trivial": _trivial,
    "fixmatch": _fixmatch,
}
