"""Every public name is documented: parameters, shapes of tensors, and what is raised."""

import ast
import importlib
import inspect
import itertools
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs/site"))
from reference_pages import PUBLIC

NAMES = [(module, name) for module, (_, names) in PUBLIC.items() for name in names]
SHAPE = re.compile(r"\([\w,. ]+\)")


def members(found):
    """A public object, and the public methods and properties of a class that it defines."""
    yield found
    if inspect.isclass(found):
        for name, member in vars(found).items():
            function = member.fget if isinstance(member, property) else member
            if not name.startswith("_") and callable(function) and not overrides(function):
                yield member


def overrides(function):
    """Whether a method is documented by its base class."""
    return getattr(function, "__override__", False)


def parameters(found):
    """Parameters to document: none of errors, of fields with a docstring, and of no name."""
    if isinstance(found, property) or (inspect.isclass(found) and issubclass(found, Exception)):
        return {}
    given = inspect.signature(found).parameters
    documented = tuple(fields(found)) if inspect.isclass(found) else ()
    return {
        name: each
        for name, each in given.items()
        if name not in ("self", *documented)
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }


def fields(found):
    """Fields of a dataclass that are followed by a docstring in its source."""
    for base in found.__mro__:
        if base.__module__.startswith("distillers"):
            body = ast.parse(inspect.getsource(base)).body[0].body
            for field, text in itertools.pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    yield field.target.id


@pytest.mark.parametrize(("module", "name"), NAMES, ids=str)
def test_a_public_name_is_documented(module, name):
    found = getattr(importlib.import_module(module), name)
    whole = inspect.getdoc(found) or ""
    missing = [each for each in parameters(found) if not re.search(rf"\b{each}\b", whole)]
    assert not missing, f"{missing} are not in the docstring"
    for member in members(found):
        text = inspect.getdoc(member) or ""
        assert text, f"{member} has no docstring"
        tensors = [each for each in parameters(member).values() if "Tensor" in str(each.annotation)]
        assert not tensors or SHAPE.search(text + whole), f"{member}: no shape of a tensor"


@pytest.mark.parametrize("name", PUBLIC["distillers.losses"][1])
def test_a_loss_names_its_source(name):
    text = inspect.getdoc(getattr(importlib.import_module("distillers.losses"), name))
    assert re.search(r"https?://|timm|lightly", text)


def test_all_names_of_the_package_are_listed():
    import distillers

    assert set(distillers._LAZY) == set(PUBLIC["distillers"][1])
