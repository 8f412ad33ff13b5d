"""Read checkpoints of other projects through a table of readers.

Supported are the files of RepDistiller, SimKD, SemCKD, mdistiller and projects derived from them,
those of the training scripts of timm and torchvision, and state dicts in any nesting. To support
another layout, write a class with `matches` and `convert` and add it to `READERS` before
`StateDictReader`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from distillers.checkpoints import simkd
from distillers.checkpoints.architecture import (
    RecognizedNetwork,
    Weights,
    is_state_dict,
    log,
    recognize_network,
)
from distillers.checkpoints.content import is_safetensors
from distillers.checkpoints.hub_config import read_hub_config
from distillers.checkpoints.schema import check_card
from distillers.errors import SAVE_WEIGHTS, InputError
from distillers.losses.ops.reused_classifier import ReusedClassifier
from distillers.models.pretrained import statistics

STATE_KEYS = ("model", "state_dict", "model_state_dict", "student", "net")
EMA = re.compile(
    r"(^|[^a-z])(ema|swa|shadow|avg|averaged?|target_encoder)([^a-z]|$)", re.IGNORECASE
)
# Of DistributedDataParallel at the beginning; of torch.compile, FSDP and checkpointing anywhere.
WRAPPERS = re.compile(
    r"((?<=\.)|^)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^(module\.)+"
)
DINO_HEAD = "last_layer"  # in the names of the heads of DINO, iBOT and DINOv2
MAX_DEPTH = 4
PART_DEPTH = 2  # names before those of a network's weights
MAX_CANDIDATES = 1000  # sets of weights in a file
IMAGENET_CLASSES = 1000  # of the weights that torchvision publishes

Rebuild = Callable[[RecognizedNetwork, nn.Module, str | Path], ReusedClassifier]


@dataclass(frozen=True)
class Converted:
    """The content of a third-party checkpoint.

    Attributes:
        candidates: the sets of weights in it, the preferred one first.
        warning: what is wrong with the network without `rebuild`, if anything.
        rebuild: builds the network that was evaluated from the recognized one and the teacher;
            `warning` is not logged then. None if the weights are the whole network.
    """

    candidates: list[Weights]
    warning: str = ""
    rebuild: Rebuild | None = None


class Reader(Protocol):
    """Reads one layout of checkpoints."""

    def matches(self, payload: dict[str, Any]) -> bool:
        """Return whether a file's content has this layout."""

    def convert(self, payload: dict[str, Any]) -> Converted:
        """Return the network in a file's content."""


class SimKDReader:
    """SimKD: a plain student beside the projector; the teacher's classifier is not in the file."""

    def matches(self, payload: dict[str, Any]) -> bool:
        """Return whether there is a projector."""
        return isinstance(payload.get("proj"), dict)

    def convert(self, payload: dict[str, Any]) -> Converted:
        """Return the student, to be rebuilt with the projector and the teacher's classifier."""
        warning = (
            "SimKD's projector is left out, and this is the plain student, whose own "
            "classifier was not trained; the accuracy in the file is not this network's. With the "
            "teacher (--path_t) the network that was scored is built."
        )
        others = {key: value for key, value in payload.items() if key != "proj"}
        return Converted(find_weights(others), warning, partial(simkd.build, payload["proj"]))


class StateDictReader:
    """State dicts, of which one is the network: bare, nested, or within that of a larger module."""

    def matches(self, payload: dict[str, Any]) -> bool:
        """Return True: this is the reader of last resort."""
        del payload
        return True

    def convert(self, payload: dict[str, Any]) -> Converted:
        """Return all state dicts."""
        return Converted(find_weights(payload))


READERS: tuple[Reader, ...] = (SimKDReader(), StateDictReader())


def build_third_party(
    payload: dict[str, Any],
    path: str | Path,
    *,
    model: str | None,
    image_size: int | None,
    teacher: nn.Module | None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network of another project's checkpoint, and a card for it.

    Raises:
        InputError: if there is no state dict, or its architecture is unknown.
    """
    payload = payload["model"] if is_safetensors(Path(path)) else payload
    reader = next(reader for reader in READERS if reader.matches(payload))
    converted = reader.convert(payload)
    if not converted.candidates:
        raise InputError(
            f"{path} has no state dict: none of its entries holds one; it has "
            f"{', '.join(map(str, list(payload)[:8])) or 'none'}. {SAVE_WEIGHTS}."
        )
    described = read_hub_config(Path(path))
    model = model or described.get("model")
    found = recognize_network(converted.candidates, path, model=model, image_size=image_size)
    card: dict[str, Any] = {"model": found.name, "num_classes": found.num_classes}
    if found.name.startswith("timm:") or found.num_classes == IMAGENET_CLASSES:
        card |= statistics(found.net, found.name)
        _log_normalization(card, described, path)
    if found.name == described.get("model"):
        card = check_card(card | described, path)
    if found.image_size is not None:
        card["image_size"] = found.image_size
    if converted.rebuild and teacher is not None:
        net = converted.rebuild(found, teacher, path)
        return net, {**card, "deploy": net.card}
    if converted.warning:
        log.warning("%s: %s", path, converted.warning)
    return found.net, card


def _log_normalization(card: dict[str, Any], described: dict[str, Any], path: str | Path) -> None:
    """Log which normalization of images is assumed, where nothing beside the file describes it."""
    if "mean" in card and not described.get("mean"):
        log.warning(
            "%s: images are normalized with mean %s, std %s, as for the published weights of %s.",
            path,
            *(", ".join(f"{x:.4g}" for x in card[name]) for name in ("mean", "std")),
            card["model"],
        )


def find_weights(payload: dict[str, Any]) -> list[Weights]:
    """Return the state dicts in a checkpoint, the preferred one first.

    Averaged weights (EMA) come before raw ones, as in timm, then the entries of `STATE_KEYS`.
    mmengine exchanges both, so that its `ema_state_dict` has the raw ones. In self-distillation
    (DINO, iBOT, DINOv2) the averaged weights are the teacher's. A state dict of a module that holds
    the network among others, as those of mdistiller and Lightning, is followed by its parts.
    """
    sets = _sorted(_state_dicts(payload, "", set()))
    if "message_hub" in payload:  # mmengine's
        sets.sort(key=lambda weights: weights.key == "ema_state_dict")
    found = [weights for each in sets for weights in (each, *_parts(each, PART_DEPTH))]
    return found[:MAX_CANDIDATES]


def _state_dicts(payload: dict[str, Any], key: str, seen: set[int]) -> Iterator[Weights]:
    """Yield the state dicts in nested mappings, without the prefixes of wrappers.

    A mapping that is in several places, or in itself, is read once: `seen` has its identity.
    """
    if id(payload) in seen:
        return
    seen.add(id(payload))
    if is_state_dict(payload):
        if any(value.ndim for value in payload.values()):
            yield Weights(key, {_strip_wrappers(str(name)): v for name, v in payload.items()})
        return
    for name, value in payload.items():
        if isinstance(value, dict) and isinstance(name, str) and key.count(".") < MAX_DEPTH:
            yield from _state_dicts(value, f"{key}.{name}" if key else name, seen)


def _parts(whole: Weights, depth: int) -> Iterator[Weights]:
    """Yield the weights below each first name, those of a student and averaged ones first.

    Each is followed by its own parts, down to `depth` names.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in whole.state.items():
        first, _, rest = name.partition(".")
        if rest:
            groups.setdefault(first, {})[_strip_wrappers(rest)] = value
    parts = [Weights(f"{whole.key}.{first}".strip("."), state) for first, state in groups.items()]
    for part in _sorted(parts):
        yield part
        if depth > 1:
            yield from _parts(part, depth - 1)


def _sorted(sets: Iterable[Weights]) -> list[Weights]:
    """Return sets of weights, the preferred ones first."""
    found = list(sets)
    by_key = {weights.key: weights.state for weights in found}

    def preference(weights: Weights) -> tuple[bool, int]:
        above, _, name = weights.key.rpartition(".")
        rank = STATE_KEYS.index(name) if name in STATE_KEYS else len(STATE_KEYS)
        own = f"{above}.{name.replace('teacher', 'student')}".strip(".")
        student = by_key.get(own, {})
        is_average = EMA.search(weights.key) or _is_average(name, weights.state, student)
        return not is_average, rank

    return sorted(found, key=preference)


def _is_average(name: str, teacher: dict[str, Tensor], student: dict[str, Tensor]) -> bool:
    """Return whether a teacher is the average of a student, not another network that taught it."""
    shapes = [{key: value.shape for key, value in each.items()} for each in (teacher, student)]
    has_head = name == "teacher" and any(DINO_HEAD in key for key in teacher)
    return shapes[0] == shapes[1] and (has_head or name == "teacher_backbone")


def _strip_wrappers(key: str) -> str:
    while key != (key := WRAPPERS.sub("", key)):
        pass
    return key
