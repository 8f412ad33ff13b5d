"""Augmentation of training images, and the names of its policies; nothing here imports torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from distillers.config.flags import NOT_NEGATIVE, UP_TO_1, Fact, Numbers, Range, require
from distillers.errors import InputError, unknown

SWITCH = Range("0 or 1", lambda value: value in (0, 1))
COUNT = Range("a whole number from 1 to 10", lambda value: value in range(1, 11))
REPEATS = Range("0 to 10", lambda value: 0 <= value <= 10)
TOP = Range("from 1 to 30", lambda value: 1 <= value <= 30)
NOISE = {"mstd": Range("0 or more", lambda value: value >= 0)}
# The settings of each policy, and the numbers that each accepts.
POLICIES: dict[str, Mapping[str, Range]] = {
    "rand": {"m": NOT_NEGATIVE, "n": COUNT, "p": UP_TO_1, "mmax": TOP, "inc": SWITCH, **NOISE},
    "augmix": {
        "m": NOT_NEGATIVE,
        "w": COUNT,
        "d": COUNT,
        "a": Range("greater than 0", lambda value: 0 < value < math.inf),
        **NOISE,
    },
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), NOISE),
    "trivial": {},
    "fixmatch": {},
}
SETS = ("weights", "3a", "3aw")  # of operations, as in rand-tweights
LEVELS = 10  # magnitudes are from 0 to this, unless mmax is another limit


@dataclass(frozen=True)
class PolicySpec:
    """A parsed policy, as of "rand-m9-mstd0.5-inc1".

    Attributes:
        name: one of `POLICIES`.
        settings: numbers by name, those that are given.
        operations: set of operations of RandAugment, one of `SETS`, or "" for the usual ones.
    """

    name: str
    settings: Mapping[str, float]
    operations: str = ""

    @property
    def highest(self) -> float:
        """The largest magnitude."""
        return self.settings.get("mmax", LEVELS)


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented; names and meanings are those of timm where it has them.

    Attributes:
        aa: policy of the images, as `parse_policy` reads it; None for none.
        color_jitter: strength of the change of brightness, contrast and saturation; without effect
            if `aa` is given, as in timm.
        reprob: probability that a box of an image is erased.
        scale: smallest and largest part of the area that a crop has; empty for the data set's
            crops.
        ratio: smallest and largest width of a crop divided by its height; empty as `scale`.
        hflip: probability that an image is mirrored; None for the data set's.
        vflip: probability that an image is turned upside down.
        aug_repeats: how many augmentations of an image follow each other in an epoch; 0 or 1 for
            one.
        weak_teacher: whether the teacher gets the crops without `aa`, `color_jitter` and `reprob`.
        strong_aa: policy of a second view of each image; None for no second view.
    """

    aa: str | None = None
    color_jitter: float = 0.0
    reprob: float = 0.0
    scale: tuple[float, ...] = ()
    ratio: tuple[float, ...] = ()
    hflip: float | None = None
    vflip: float = 0.0
    aug_repeats: int = 0
    weak_teacher: bool = False
    strong_aa: str | None = None

    @property
    def resizes(self) -> bool:
        """Whether crops have other areas or ratios than those of the data set."""
        return bool(self.scale or self.ratio)

    @property
    def splits(self) -> bool:
        """Whether teacher and student get different images."""
        return self.weak_teacher and bool(self.aa or self.color_jitter or self.reprob)

    def with_second_view(self, wanted: bool) -> "Augmentation":
        """Return this augmentation, without the second view unless it is wanted."""
        return self if wanted else replace(self, strong_aa=None)

    def of_teacher(self) -> dict[str, Any]:
        """Return the options of the teacher's images that are not the defaults, as JSON types."""
        names = ["scale", "ratio", "hflip", "vflip"]
        if not self.splits:
            names += ["aa", "color_jitter", "reprob"]
        each = {name: getattr(self, name) for name in names}
        changed = {name: v for name, v in each.items() if v != getattr(Augmentation, name)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in changed.items()}

    def describe(self, has_second_view: bool) -> list[str]:
        """Return lines about what differs from crop and flip."""
        lines = [f"augmentation: {self}"] if str(self) else []
        if has_second_view:
            lines.append(f"second view of each image: {self.strong_aa}")
        return lines

    def __str__(self) -> str:
        jitter = () if self.aa else ("color_jitter",)
        words = [self.aa or "", *self._changed(*jitter, "reprob", "scale", "ratio")]
        words += self._changed("hflip", "vflip", "aug_repeats")
        if self.aa and self.color_jitter:
            words.append("without color jitter, which --aa replaces as in timm")
        if self.weak_teacher:
            words.append("the teacher gets the plain crops")
        return ", ".join(filter(None, words))

    def _changed(self, *names: str) -> list[str]:
        """Return the values that differ from their defaults, with their names."""
        each = ((name, getattr(self, name)) for name in names)
        return [f"{name} {value}" for name, value in each if value != getattr(Augmentation, name)]


@dataclass(frozen=True, kw_only=True)
class AugmentationFlags:
    """Flags of the augmentation of training images, with the names that timm gives them."""

    aa: Annotated[str | None, Fact.PUBLISHED_SETTING] = None
    """Augmentation policy, as in rand-m9-mstd0.5-inc1 (RandAugment), original (AutoAugment),
    trivial (TrivialAugment) or augmix-m5-w4-d2 (AugMix). Default: crop and flip only."""
    color_jitter: Annotated[float, NOT_NEGATIVE, Fact.PUBLISHED_SETTING] = 0.0
    """Change brightness, contrast and saturation by up to this factor, as in 0.4; not together with
    --aa."""
    reprob: Annotated[float, UP_TO_1, Fact.PUBLISHED_SETTING] = 0.0
    """Probability that a box of an image is replaced by noise (random erasing)."""
    scale: Annotated[Numbers, Fact.PUBLISHED_SETTING] = ()
    """Smallest and largest part of the area of a random crop, as in 0.08,1, which is resized.
    Default: 0.08,1 for images in files; others are padded and cropped without resizing."""
    ratio: Annotated[Numbers, Fact.PUBLISHED_SETTING] = ()
    """Smallest and largest width of a random crop divided by its height. Default: 0.75,1.3333."""
    hflip: Annotated[float | None, UP_TO_1, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = None
    """Probability that an image is mirrored. Default: 0.5, or 0 where it changes the class, as that
    of digits."""
    vflip: Annotated[float, UP_TO_1, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0.0
    """Probability that an image is turned upside down."""
    aug_repeats: Annotated[int, REPEATS, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0
    """Number of consecutive augmentations of each image (repeated augmentation); an epoch then has
    fewer different images."""

    def augmentation(self) -> Augmentation:
        """Return how training images are augmented."""
        return Augmentation(
            **{each.name: getattr(self, each.name) for each in fields(AugmentationFlags)}
        )

    def check_augmentation(self) -> None:
        """Check the flags together; see `check_ranges` for the others.

        Raises:
            InputError: naming the flag, its value, and what is allowed.
        """
        if self.aa is not None:
            parse_policy(self.aa)
        for name, highest in (("scale", 1.0), ("ratio", math.inf)):
            value = getattr(self, name)
            valid = not value or (len(value) == 2 and 0 < value[0] <= value[1] <= highest)
            valid = valid and all(map(math.isfinite, value))
            limit = " up to 1" if highest == 1 else ""
            numbers = f"two numbers{limit}, above 0, the smaller one first, as in 0.5,1"
            require(name, ",".join(f"{v:g}" for v in value), valid, numbers)


def parse_policy(text: str, flag: str = "aa") -> PolicySpec:
    """Read the name of a policy and its settings, in the way of timm's --aa.

    Examples are "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original" and "trivial".

    Raises:
        InputError: if the name or a setting is unknown, or a number out of its range.
    """
    name, *sections = text.split("-")
    if name not in POLICIES:
        raise unknown(f"policy in --{flag}", name, POLICIES)
    settings, operations = {}, ""
    for section in sections:
        if name == "rand" and section.startswith("t"):
            operations = section[1:]
            if operations not in SETS:
                raise unknown(f"set of operations in --{flag} {text}", operations, SETS)
            continue
        key, value = _setting(section, text, flag)
        if key not in POLICIES[name]:
            known = [*POLICIES[name], *(["t"] if name == "rand" else [])]
            raise unknown(f"setting of {name} in --{flag} {text}", key, known)
        allowed = POLICIES[name][key]
        if not allowed.contains(value):
            raise InputError(f"--{flag} {text}: {key} is {value:g}; it must be {allowed.allowed}.")
        settings[key] = value
    policy = PolicySpec(name, settings, operations)
    magnitude = settings.get("m", 0)
    if magnitude > policy.highest:
        more = f"; {name}-m{magnitude:g}-mmax{magnitude:g} allows more" if name == "rand" else ""
        raise InputError(
            f"--{flag} {text}: the magnitude m is {magnitude:g}; it must be from 0 to "
            f"{policy.highest:g}{more}."
        )
    return policy


def _setting(section: str, text: str, flag: str) -> tuple[str, float]:
    """Split a section such as "mstd0.5" into its name and its number."""
    found = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", section)
    if found is None:
        raise InputError(
            f"--{flag} {text}: {section!r} is not a name with a number, as in m9 or mstd0.5."
        )
    return found[1], float(found[2])
