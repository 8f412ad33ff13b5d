"""Open programs of torch.export, after checking that they only compute.

`torch.export.load` is not made for files from strangers: it unpickles objects, evaluates
expressions as Python, and calls any function of `torch` that the file names. So the names of the
archive's members and every text in it must have the form that a network's program has.
"""

import io
import json
import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillers.errors import CorruptFileError, InputError

CARD = "card.json"  # in the archive
GRAPHS = ("models/model.json", "serialized_exported_program.json")
MEMBERS = re.compile(
    r"data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/(tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt)"
    rf"|models/model\.json|extra/{re.escape(CARD)}|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
)
# Forms of the texts in a program, by the key that they are at. Operators must not take file names.
OPERATOR = r"torch\.ops\.(aten|prims|torchvision)\.(?!from_file|save|load)\w+(\.\w+)?"
ARITHMETIC = "getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_"
SYMBOL = r"Symbol\('[a-z]+\d+'(, [a-z]+=(True|False))*\)"
CALL = r"[A-Z][A-Za-z]*\("  # as in Mul(
SIZE = r"L\['\w+'\]\.size\(\)\[\d+\]"
WORDS = r'"(type|context|children_spec|null|\[\]|builtins\.(tuple|dict|list))"'
FORMS = {
    "target": rf"{OPERATOR}|_operator\.({ARITHMETIC})|torch\.sym_\w+",
    "expr_str": rf"({SYMBOL}|{CALL}|[\d()., +*/<>=-])*",
    "guards_code": rf"({SIZE}|and |or |not |{CALL}|[\d(), +*/%<>=!-])*",
    "in_spec": rf"([\[\]{{}}:, \d]|null|{WORDS})*",
    "stack_trace": r"(.|\n)*",  # only in comments, by earlier versions
    "nn_module_stack": r"[^\n]*",
    "torch_fn": r"[^\n]*",
}
FORMS["out_spec"] = FORMS["treespec"] = FORMS["in_spec"]
PATTERNS = {key: re.compile(form) for key, form in FORMS.items()}
OTHERS = re.compile(r"[\w.+:-]*")


class Program(nn.Module):
    """An exported program as a module with its card; it always runs in evaluation mode."""

    def __init__(self, program: torch.export.ExportedProgram, card: object) -> None:
        super().__init__()
        self.graph, self.card = program.module(), card

    def train(self, mode: bool = True) -> "Program":
        """Set the flag only: the graph cannot change its mode."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, 3, h, w)."""
        return self.graph(images)


def read_program(path: Path) -> Program:
    """Return the program in a `.pt2` file.

    Raises:
        InputError: if it could do more than compute.
        CorruptFileError: if it is damaged.
    """
    extra = {CARD: ""}
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs a traceback for a damaged file; raised below
    try:
        _check_has_card(path)
        _check_safe(path)
        program = torch.export.load(path, extra_files=extra)
        return Program(program, json.loads(extra[CARD]))
    except InputError:
        raise
    except Exception as error:  # a damaged program can raise anything
        raise CorruptFileError(
            f"{path} is damaged or not written by `distillers export`."
        ) from error
    finally:
        logger.setLevel(level)


def _check_has_card(path: Path) -> None:
    """Check that a program of torch.export, if it is one, is a file of this library."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    is_program = any(name.endswith(GRAPHS) for name in names)
    if is_program and not any(name.endswith(f"extra/{CARD}") for name in names):
        raise InputError(
            f"{path} is no program that `distillers export` wrote: it has no card. If you trust "
            "it, save its weights with torch.save(torch.export.load(FILE).state_dict, NEW_FILE), "
            "and name that file."
        )


def _check_safe(path: Path) -> None:
    """Check that loading and running a program runs no code but operators on tensors."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        unknown = next((name for name in names if not MEMBERS.fullmatch(name)), None)
        if len(names) != len(archive.namelist()):
            unknown = "two members of one name"
        if unknown is None:
            jsons = [name for name in names if name.endswith(".json") and "extra/" not in name]
            found = (_unsafe(json.loads(archive.read(names[name]))) for name in jsons)
            unknown = next((text for text in found if text is not None), None)
        samples = archive.read(names["data/sample_inputs/model.pt"])
    if unknown is not None:
        raise InputError(
            f"{path} holds {unknown[:80]!r}, which the program of a network does not need, and was "
            "not opened: that could run code from it."
        )
    # torch.export.load would ignore an error in it
    torch.load(io.BytesIO(samples), weights_only=True)


def _unsafe(value: Any, key: str = "") -> str | None:
    """Return a text in parsed JSON that does not have the form for its key, or None."""
    if isinstance(value, dict):
        if value.get("use_pickle"):
            return "use_pickle"
        inner = [_unsafe(name) for name in value] + [_unsafe(v, k) for k, v in value.items()]
    elif isinstance(value, list):
        inner = [_unsafe(each, key) for each in value]
    elif isinstance(value, str) and not PATTERNS.get(key, OTHERS).fullmatch(value):
        return value
    else:
        return None
    return next((text for text in inner if text is not None), None)
