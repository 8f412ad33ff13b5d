"""From flags to the weights and options of every loss of a student's run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

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
    """The weights of a run.

    Attributes:
        ce: of the cross-entropy.
        kd: of the KL divergence.
        methods: of each other loss, by the name that it was asked for with.
    """

    ce: float
    kd: float
    methods: Mapping[str, float]

    @property
    def method(self) -> float:
        """The weight of the first method, 0 where there is none: the folder name's b."""
        return next(iter(self.methods.values()), 0.0)

    def terms(self) -> dict[str, float]:
        """Weight by loss name, those of weight zero left out."""
        every = {"ce": self.ce, "kd": self.kd, **self.methods}
        return {name: weight for name, weight in every.items() if weight}


def choose(config: StudentConfig, teacher: str | None = None) -> Weights:
    """The weights that the flags give, published ones in the place of those left out.

    Args:
        config: the flags.
        teacher: its name, for pairs that have weights of their own.

    Raises:
        InputError: for an unknown method, or a weight that has nothing to weigh.
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
                f"--beta {config.beta:g} has nothing to weigh: {' and '.join(asked)} is weighted "
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
    )
    if not weights.terms():
        raise InputError("every weight is zero: nothing would be learned.")
    return weights


def options(
    config: StudentConfig, weights: Weights, teacher: str | None = None
) -> dict[str, dict[str, Any]]:
    """The options of each loss of the run by its class's lower-cased name.

    The published ones of the protocol first, then those of the documented flags, then --option. A
    documented flag of a loss that takes no part is ignored, as scripts of a grid have it.

    Raises:
        InputError: for an --option of a loss that does not take part.
    """
    classes = {name: wiring.find(name) for name in weights.terms()}
    short = {cls.__name__.lower(): cls for cls in classes.values()}
    chosen = {
        cls.__name__.lower(): dict(_recipe(config, name, teacher).options)
        for name, cls in classes.items()
    }
    if not config.gather:
        for name, cls in short.items():
            if "gather" in wiring.options(cls):
                chosen[name]["gather"] = False
    flags = dict.fromkeys(flag for flag, _, _ in FLAG_OPTIONS)
    for flag in flags:
        value = getattr(config, flag)
        targets = [(loss, option) for name, loss, option in FLAG_OPTIONS if name == flag]
        for loss, option in targets:
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
                f"--option {entry}: {loss} takes no part in this run; there are {', '.join(short)}."
            )
        chosen[loss][option] = wiring.parse_option(short[loss], option, text)
    return chosen


def settings(weights: Weights, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Each weight by the loss's name and each option, the defaults too, by "loss.option".

    Args:
        weights: what `choose` gave.
        chosen: what `options` gave.
    """
    flat: dict[str, Any] = dict(weights.terms())
    for cls in map(wiring.find, weights.terms()):
        short = cls.__name__.lower()
        every = {**wiring.options(cls), **chosen.get(short, {})}
        flat |= {f"{short}.{name}": value for name, value in every.items()}
    return flat


def departures(
    config: StudentConfig, weights: Weights, given: Mapping[str, Any], teacher: str | None = None
) -> dict[str, Any]:
    """Those `settings` that are not as the protocol publishes them; a loss left out weighs 0.

    Args:
        config: the flags.
        weights: what `choose` gave for them.
        given: what `settings` gave for them.
        teacher: its name, for pairs that have weights of their own.
    """
    flags: dict[str, Any] = dict.fromkeys(flag for flag, _, _ in FLAG_OPTIONS)
    plain = replace(config, cls=None, div=None, beta=None, option=(), **flags)
    published = choose(plain, teacher)
    usual = settings(published, options(plain, published, teacher))
    usual = {**settings(weights, {}), **dict.fromkeys(weights.terms(), 0.0), **usual}
    every = {**dict.fromkeys(published.terms(), 0.0), **given}
    return {name: value for name, value in every.items() if usual[name] != value}


def _recipe(config: StudentConfig, method: str, teacher: str | None) -> recipes.Recipe:
    return recipes.recipe(
        config.protocol, method, dataset=config.dataset, teacher=teacher, student=config.model_s
    )
