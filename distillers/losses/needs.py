"""What a loss needs of networks, data and training, read off its signature."""

from torch import nn

from distillers.losses import wiring

# What a loss needs, by the names of its parameters without "student_" or "teacher_".
WORDS = {
    "labels": wiring.FROM_LABELS,
    "classifier": ("logits", "head", "class_maps", "num_classes"),
    "embeddings": ("pooled",),
    "maps": ("maps", "final", "preacts", "stem"),
    "class maps": ("class_maps",),
    "tokens": ("tokens",),
}


def needs(loss: type[nn.Module]) -> list[str]:
    """Return what a loss needs, in words: those of `WORDS`, "two views", "first stage"."""
    named = {*wiring.inputs(loss), *wiring.constructor_facts(loss)}
    short = {
        name.removeprefix("student_").removeprefix("teacher_").removesuffix(wiring.STRONG)
        for name in named
    }
    found = [word for word, names in WORDS.items() if short & set(names)]
    if any(name.endswith(wiring.STRONG) for name in named):
        found.append("two views")
    return [*found, "first stage"] if hasattr(loss, "warmup") else found
