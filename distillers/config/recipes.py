"""Training recipes by name: flags that --recipe sets; nothing here imports torch."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal, TypeVar

from distillers.config.flags import flag_words
from distillers.config.train import TrainConfig
from distillers.errors import InputError, unknown

Config = TypeVar("Config", bound=TrainConfig)
ALL = ("teacher", "student", "transfer")
NETWORKS = ("teacher", "student")  # a transfer has hard labels only


@dataclass(frozen=True)
class TrainingRecipe:
    """Flags of a training, and where they are from.

    Attributes:
        flags: values by name of flag; the others keep their defaults.
        source: publication or measurement.
        commands: of `distillers`, that the recipe is for.
        scaling: how the learning rate follows another batch size, as timm's `--lr-base-scale`.
    """

    flags: Mapping[str, Any]
    source: str
    commands: tuple[str, ...] = NETWORKS
    scaling: Literal["linear", "sqrt"] = "linear"


_COSINE: dict[str, Any] = {"sched": "cosine", "sched_on_updates": True}
_STRIKES_BACK: dict[str, Any] = {  # warmup_lr and min_lr: defaults of timm then
    "opt": "lamb",
    "learning_rate": 5e-3,
    "weight_decay": 0.02,
    "batch_size": 2048,
    "sched": "cosine",
    "warmup_epochs": 5,
    "warmup_lr": 1e-4,
    "min_lr": 1e-6,
    "bce_loss": True,
    "mixup": 0.1,
    "cutmix": 1.0,
    "aa": "rand-m7-mstd0.5-inc1",
    "aug_repeats": 3,
}
_WIGHTMAN = "Wightman, Touvron and Jegou, 2021, https://arxiv.org/abs/2110.00476, table 2"

RECIPES = {
    "published": TrainingRecipe(
        {}, "the defaults of all flags, the protocol of the published CIFAR tables", ALL
    ),
    "finetune": TrainingRecipe(
        {
            "opt": "nesterov",
            "learning_rate": 0.01,
            "weight_decay": 1e-4,
            "clip_grad": 1.0,
            **_COSINE,
            "warmup_epochs": 1,
            "epochs": 20,
            "scale": (0.64, 1.0),
        },
        "usual practice, as in Kolesnikov et al., 2020, https://arxiv.org/abs/1912.11370, and "
        "Steiner et al., 2021, https://arxiv.org/abs/2106.10270",
        ALL,
    ),
    "distil": TrainingRecipe(
        {
            "opt": "nesterov",
            "learning_rate": 0.05,
            "weight_decay": 5e-4,
            "clip_grad": 5.0,
            **_COSINE,
            "warmup_epochs": 2,
            "epochs": 100,
        },
        "the published protocol with a cosine and fewer epochs",
    ),
    "patient": TrainingRecipe(
        {
            "opt": "adamw",
            "learning_rate": 0.01,
            "weight_decay": 0.1,  # theirs is multiplied by the schedule only: 1e-3 = 0.01 x 0.1
            "batch_size": 512,
            "clip_grad": 1.0,
            **_COSINE,
            "warmup_epochs": 232,  # 1,500 updates for their 3,312 images
            "warmup_lr": 0.0,
            "epochs": 1000,
            "scale": (0.05, 1.0),
            "mixup": 1.0,
            "cls": 0.0,
            "div": 1.0,
            "kd_T": 5.0,
        },
        "Beyer et al., 2022, https://arxiv.org/abs/2106.05237, their configuration for 1,000 "
        "epochs of Pets",
        ("student",),
        "sqrt",
    ),
    "a1": TrainingRecipe(
        {
            **_STRIKES_BACK,
            "weight_decay": 0.01,
            "epochs": 600,
            "smoothing": 0.1,
            "mixup": 0.2,
            "drop_path": 0.05,
        },
        _WIGHTMAN,
        scaling="sqrt",
    ),
    "a2": TrainingRecipe(
        {**_STRIKES_BACK, "epochs": 300, "drop_path": 0.05}, _WIGHTMAN, scaling="sqrt"
    ),
    "a3": TrainingRecipe(
        {
            **_STRIKES_BACK,
            "learning_rate": 8e-3,
            "epochs": 100,
            "aa": "rand-m6-mstd0.5-inc1",
            "aug_repeats": 0,
        },
        _WIGHTMAN,
        scaling="sqrt",
    ),
    "deit": TrainingRecipe(
        {
            "opt": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 0.05,
            "batch_size": 1024,
            "sched": "cosine",
            "warmup_epochs": 5,
            "warmup_lr": 1e-6,
            "min_lr": 1e-5,
            "epochs": 300,
            "smoothing": 0.1,
            "mixup": 0.8,
            "cutmix": 1.0,
            "drop_path": 0.1,
            "aa": "rand-m9-mstd0.5-inc1",
            "reprob": 0.25,
            "aug_repeats": 3,
        },
        "Touvron et al., 2021, https://arxiv.org/abs/2012.12877, table 9",
    ),
}


def resolve(config: Config, given: Collection[str]) -> Config | None:
    """Return the defaults that a recipe gives to the flags of a command; None without a recipe.

    They are those of the recipe, adapted to flags that the user has given: the learning rate
    follows the batch size, a warm-up takes at most a fifth of fewer epochs, milestones get a
    schedule that has them, and only networks of timm and torchvision get stochastic depth. `given`
    names the flags that the user has given.

    Raises:
        InputError: if the recipe is unknown or not for this command.
    """
    name = config.recipe
    if name is None and "recipe" not in given:
        name = config.default_recipe()
    if name is None:
        return None
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    recipe = RECIPES[name]
    if config.COMMAND not in recipe.commands:
        allowed = ", ".join(n for n, other in RECIPES.items() if config.COMMAND in other.commands)
        raise InputError(f"--recipe {name} is not for {config.COMMAND}; take one of {allowed}.")
    flags = dict(recipe.flags)
    batch_size, published = config.batch_size, flags.get("batch_size", TrainConfig.batch_size)
    size = (batch_size if "batch_size" in given else published) * config.accumulate
    if size != published and "learning_rate" in flags:
        ratio = size / published
        flags["learning_rate"] *= ratio if recipe.scaling == "linear" else math.sqrt(ratio)
    if "epochs" in given and config.epochs < flags.get("epochs", 0) and "warmup_epochs" in flags:
        flags["warmup_epochs"] = min(flags["warmup_epochs"], config.epochs // 5)
    if "lr_decay_epochs" in given and "sched" in flags:
        flags["sched"] = "multistep"
    if not config.network.startswith(("timm:", "torchvision:")):
        flags.pop("drop_path", None)
    fields = (field for field in dataclasses.fields(config) if field.default is not MISSING)
    defaults = {field.name: field.default for field in fields}  # what has none is as it was given
    return dataclasses.replace(config, **{**defaults, "recipe": name, **flags})


def describe(config: TrainConfig) -> str:
    """Return a line about the recipe of a run: its flags as they are, and what was changed."""
    assert config.recipe is not None
    flags = RECIPES[config.recipe].flags
    now = {name: getattr(config, name) for name in flags}
    changed = {name: value for name, value in flags.items() if now[name] != value}
    line = f"recipe {config.recipe}: {_words(now) or 'the defaults of all flags'}"
    return f"{line} (instead of {_words(changed)})" if changed else line


def _words(flags: Mapping[str, Any]) -> str:
    words: list[str] = []
    for name, value in flags.items():
        shown = round(value, 8) if isinstance(value, float) else value
        words += flag_words(name, shown) or [f"--{name}", "None"]
    return " ".join(words)
