"""Classify embeddings by their cosine to one embedding for each class, as CLIP and SigLIP do."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import normalize

from distillers.checkpoints.checksum import check_checksum
from distillers.errors import InputError, unknown

NAMES, SCALE, TENSOR = "class_names", "logit_scale", "class_embeddings"
TEMPERATURE = 0.01  # that of CLIP
MAX_SCALE = 1e4


class CosineClassifier(nn.Module):
    """Logits that are the cosines of embeddings and class embeddings, divided by a temperature.

    Args:
        class_embeddings: (k, d), of any length; frozen.
        temperature: what the cosines are divided by.
    """

    def __init__(self, class_embeddings: Tensor, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        unit = normalize(class_embeddings.double(), dim=1).float()
        self.weight = nn.Parameter(unit, requires_grad=False)
        self.temperature = temperature

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits (n, k) of embeddings (n, d)."""
        return normalize(embeddings, dim=1) @ self.weight.T / self.temperature

    def extra_repr(self) -> str:
        """Return the shape and the temperature."""
        return f"{tuple(self.weight.shape)}, temperature={self.temperature:g}"


class ClassEmbeddings(NamedTuple):
    """The content of a file of class embeddings, in the order of a data set's classes.

    Attributes:
        embeddings: (k, d) float32.
        temperature: the inverse of the file's `logit_scale`; 0.01 if it has none.
        note: what was assumed about the file; "" if nothing.
    """

    embeddings: Tensor
    temperature: float
    note: str


def read_class_embeddings(path: Path, class_names: Sequence[str]) -> ClassEmbeddings:
    """Read a safetensors file of class embeddings, for a data set's class names.

    It holds `class_embeddings` (k, d), in its metadata `class_names`, a JSON list of their k names,
    and may hold `logit_scale`, one number: the inverse of the temperature. The rows are matched
    with the data set's classes by name, in any order; more rows are left out.

    Raises:
        InputError: if the file is not as described, or lacks a class.
    """
    tensors, names = _read(path)
    table, scale = tensors.get(TENSOR), tensors.get(SCALE)
    if table is None or table.ndim != 2 or not _is_real(table):
        shapes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in tensors.items())
        raise InputError(
            f"{path} has no matrix {TENSOR} of finite floats; it has {shapes or 'no tensors'}."
        )
    if len(names) != len(table) or len(set(names)) != len(names):
        raise InputError(
            f"{path} has {len(table)} rows of {TENSOR} and {len(set(names))} different "
            f"{NAMES} in its metadata; each row needs its name."
        )
    places = {name: row for row, name in enumerate(names)}
    missing = [name for name in class_names if name not in places]
    if missing:
        raise InputError(f"{path}: {unknown('class', missing[0], names)}")
    if scale is not None and not (
        scale.numel() == 1 and _is_real(scale) and 0 < float(scale) <= MAX_SCALE
    ):
        raise InputError(f"{path}: {SCALE} must be one number in (0, {MAX_SCALE:g}].")
    rows = torch.tensor([places[name] for name in class_names])
    chosen = table[rows].float()
    zero = (chosen == 0).all(dim=1).nonzero().flatten().tolist()
    if zero:
        raise InputError(f"{path}: the embedding of class {class_names[zero[0]]} is zero.")
    note = "" if check_checksum(path) else f"{path} is not verified, since it has no checksum"
    if names != list(class_names):
        left_out = len(names) - len(class_names)
        note += "; its rows" if note else f"the rows of {path}"
        note += " were put into the order of the data set's classes by name"
        note += f", {left_out} others left out" if left_out else ""
    temperature = TEMPERATURE if scale is None else 1 / float(scale)
    return ClassEmbeddings(chosen, temperature, note)


def _read(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a file, and the class names in its metadata."""
    if not path.is_file():
        raise InputError(
            f"--teacher_head {path}: there is no such file; give fit, logistic, none or a file of "
            "class embeddings."
        )
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names = json.loads((file.metadata() or {}).get(NAMES, "[]"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no safetensors file of class embeddings: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: {NAMES} in its metadata must be a JSON list of names.")
    return tensors, names


def _is_real(tensor: Tensor) -> bool:
    """Return whether a tensor consists of finite floating-point numbers."""
    return tensor.is_floating_point() and bool(torch.isfinite(tensor.float()).all())
