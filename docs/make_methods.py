"""Write docs/methods.md from the docstrings of the losses: python docs/make_methods.py."""

import inspect
import re
from pathlib import Path

from distillers.distillation import recipes
from distillers.losses import wiring

PAGE = Path(__file__).with_name("methods.md")
HEAD = """# Methods

Generated from the docstrings by `python docs/make_methods.py`; edit those, not this page.

Weights are those of cross-entropy / KL divergence / the method, with `--protocol crd` and
`--protocol simkd`. Every loss is a plain `torch.nn.Module` in `distillers.losses`. *Reads* are the
inputs of its `forward`, *needs* the facts that its constructor requires, *options* what
`--option NAME.OPTION=VALUE` sets.

Throughout, n is the number of images, k of classes, c of channels, (h, w) the size of a map, d the
width of an embedding, N the number of training images or of the images of all processes. A *stage*
is a group of layers whose output has one size; a *map* is the output of a stage; the *embedding* is
the input of the classifier.
"""


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(section(name, cls) for name, cls in sorted(wiring.losses().items()))


def section(name: str, cls: type) -> str:
    """Return the section of one method."""
    rows = [recipes.recipe(protocol, name) for protocol in ("crd", "simkd")]
    weights = ", ".join(
        f"{protocol} {row.ce:g} / {row.kd:g} / {row.method:g}"
        for protocol, row in zip(("crd", "simkd"), rows, strict=True)
    )
    options = ", ".join(f"`{key}={value!r}`" for key, value in wiring.options(cls).items())
    lines = [
        f"\n## {cls.__name__}\n",
        f"`--distill {name}` · weights: {weights}\n",
        f"reads {names(wiring.forward_inputs(cls.forward))}"
        + (
            f" · needs {names(wiring.constructor_facts(cls))}"
            if wiring.constructor_facts(cls)
            else ""
        )
        + (f" · options {options}" if options else "")
        + "\n",
        f"{markdown(inspect.getdoc(cls) or '')}\n",
    ]
    return "\n".join(lines)


def names(each: tuple[str, ...]) -> str:
    """Format names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in each)


def markdown(docstring: str) -> str:
    """Format a docstring as Markdown, with Args, Raises, Attributes and Returns as lists."""
    lines: list[str] = []
    listing = False
    for line in docstring.splitlines():
        heading = re.fullmatch(r"(Args|Raises|Attributes|Returns):", line)
        entry = re.match(r" {4}(\w+): (.*)", line) if listing else None
        listing = bool(heading) or (listing and line.startswith(" "))
        if heading:
            lines += [f"*{heading[1]}*\n"]
        elif entry:
            lines += [f"* `{entry[1]}`: {entry[2]}"]
        else:
            lines += [line.strip() if listing else line]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
