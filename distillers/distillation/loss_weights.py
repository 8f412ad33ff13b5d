"""Choose the weights and options of the losses from the flags of a student's run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from distillers.config.flags import LossOption, marked
from distillers.config.student import StudentConfig
from distillers.distillation import recipes
from distillers.errors import InputError
from distillers.losses import wiring

# Flags that set options of losses: flag, loss, option.
FLAG_OPTIONS = [
    (flag, *target.split("."))
    for flag, marker in marked(StudentConfig, LossOption)
    for target in marker.targets
]


@dataclass(frozen=True)
class Weights:
    """Weights of the losses of a run.

    Attributes:
        ce: weight of the cross-entropy.
        kd: weight of the KL divergence to the teacher's logits.
        methods: weights of the other losses, by their names on the command line.
        ce_name: name of the cross-entropy, "ce", or that of the loss that takes its place.
    """

    ce: float
    kd: float
    methods: Mapping[str, float]
    ce_name: str = "ce"

    @property
    def method(self) -> float:
        """Weight of the first method, 0 if there is none; `b` in the name of the run folder."""
        return next(iter(self.methods.values()), 0.0)

    def __str__(self) -> str:
        """Return the weighted sum, as in "1 ce + 0.5 kd"."""
        return " + ".join(f"{weight:g} {name}" for name, weight in self.terms().items())

    def terms(self) -> dict[str, float]:
        """Return the weights by loss name, without those that are zero."""
        every = {self.ce_name: self.ce, "kd": self.kd, **self.methods}
        return {name: weight for name, weight in every.items() if weight}


def choose(config: StudentConfig, teacher: str | None = None) -> Weights:
    """Return the weights set by the flags, and the published ones for flags that are not set.

    Raises:
        InputError: if a method is unknown, or --beta is set without a method.
    """
    asked = config.methods()
    for name in asked:
        wiring.find(name)
    methods = [name for name in asked if name not in ("ce", "kd")]
    published = [_recipe(config, name, teacher) for name in methods]
    if not methods:
        base = _recipe(config, "kd" if "kd" in asked else "ce", teacher)
        if config.beta:
            raise InputError(
                f"--beta {config.beta:g} has no loss to weight: {' and '.join(asked)} is weighted "
                "by --cls and --div."
            )
    else:
        kd = 1.0 if "kd" in asked else min(each.kd for each in published)
        base = recipes.Recipe(ce=min(each.ce for each in published), kd=kd)
    weights = Weights(
        ce=base.ce if config.cls is None else config.cls,
        kd=base.kd if config.div is None else config.div,
        methods={
            name: each.method if config.beta is None else config.beta
            for name, each in zip(methods, published, strict=True)
        },
        ce_name=config.label_loss,
    )
    if not weights.terms():
        raise InputError("every weight is zero; there is no loss.")
    if config.soft_labels().mixes:
        wiring.check_mixing(weights.terms())
    _check_second_view(config, weights)
    return weights


def _check_second_view(config: StudentConfig, weights: Weights) -> None:
    """Check that a second view can be made for the losses that read it."""
    losses = [wiring.find(name) for name in weights.terms()]
    for loss in losses:
        if config.dali is not None and wiring.reads_strong(loss):
            raise InputError(
                f"--dali {config.dali} makes one view of each image, but {loss.__name__} reads a "
                "second, strongly augmented one; leave --dali out."
            )
        if config.stored is not None and wiring.reads_strong(loss, "teacher"):
            raise InputError(
                f"{config.stored} holds what the teacher computed for one view of each image, but "
                f"{loss.__name__} also reads the teacher on a second, strongly augmented one; "
                + ("leave it out." if config.pack_t is None else "give the teacher itself.")
            )


def options(
    config: StudentConfig, weights: Weights, teacher: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the options of each loss of the run, by lower-cased class name.

    The published options of the protocol are overridden by the flags in `FLAG_OPTIONS`, and these
    by --option. A flag of a loss that is not used is ignored, since scripts of a grid pass all of
    them.

    Raises:
        InputError: if an --option is malformed, unknown, or of a loss that is not used.
    """
    classes = {name: wiring.find(name) for name in weights.terms()}
    short = {cls.__name__.lower(): cls for cls in classes.values()}
    published = {name: _recipe(config, name, teacher) for name in classes}
    chosen = {cls.__name__.lower(): dict(published[name].options) for name, cls in classes.items()}
    used = [name for name in weights.methods if name in published]  # without those of weight 0
    for name in used if "kd" in chosen else ():
        chosen["kd"].update(published[name].kd_options)
    _apply_flags(config, short, chosen)
    return chosen


def _apply_flags(
    config: StudentConfig, short: Mapping[str, type[nn.Module]], chosen: dict[str, dict[str, Any]]
) -> None:
    """Set the options that the flags name, for the losses `short` by name."""
    if not config.gather:
        for name, cls in short.items():
            if "gather" in wiring.options(cls):
                chosen[name]["gather"] = False
    for flag, loss, option in FLAG_OPTIONS:
        value = getattr(config, flag)
        if value is not None and loss in short:
            chosen[loss][option] = value
    for entry in (part for group in config.option for part in group):
        loss, dot, rest = entry.partition(".")
        option, equals, text = rest.partition("=")
        if not dot or not equals:
            raise InputError(
                f"--option {entry} must read LOSS.OPTION=VALUE, as in crd.negatives=4096."
            )
        if loss not in short:
            raise InputError(
                f"--option {entry}: this run does not use {loss}; it uses {', '.join(short)}."
            )
        chosen[loss][option] = wiring.parse_option(short[loss], option, text)


def settings(weights: Weights, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return all weights by loss name and all options, with defaults, by "loss.option"."""
    flat: dict[str, Any] = dict(weights.terms())
    for cls in map(wiring.find, weights.terms()):
        short = cls.__name__.lower()
        every = {**wiring.options(cls), **chosen.get(short, {})}
        # An empty list is an option that is off; runs from before it existed count as equal.
        flat |= {f"{short}.{name}": value for name, value in every.items() if value != ()}
    return flat


def departures(
    config: StudentConfig, weights: Weights, given: Mapping[str, Any], teacher: str | None = None
) -> dict[str, Any]:
    """Return the settings that differ from those of the protocol; a missing loss has weight 0."""
    flags: dict[str, Any] = dict.fromkeys(flag for flag, _, _ in FLAG_OPTIONS)
    plain = replace(config, cls=None, div=None, beta=None, option=(), **flags)
    published = choose(plain, teacher)
    usual = settings(published, options(plain, published, teacher))
    usual = {**settings(weights, {}), **dict.fromkeys(weights.terms(), 0.0), **usual}
    every = {**dict.fromkeys(published.terms(), 0.0), **given}
    return {name: value for name, value in every.items() if usual.get(name, ()) != value}


def _recipe(config: StudentConfig, method: str, teacher: str | None) -> recipes.Recipe:
    return recipes.recipe(
        config.protocol, method, dataset=config.dataset, teacher=teacher, student=config.model_s
    )
