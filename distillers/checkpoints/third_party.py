"""Read checkpoints of other projects through a table of readers.

Supported are the files of RepDistiller, SimKD, SemCKD, mdistiller and projects derived from them,
and plain state dicts as timm, torchvision and safetensors write them. To support another layout,
write a class with `matches` and `convert` and add it to `READERS` before `StateDictReader`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from distillers.checkpoints import simkd
from distillers.checkpoints.architecture import RecognizedNetwork, log, recognize_network
from distillers.errors import InputError
from distillers.losses.ops.reused_classifier import ReusedClassifier
from distillers.models.pretrained import statistics

STATE_KEYS = ("model", "state_dict", "model_state_dict", "student", "net")
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel's and torch.compile's
IMAGENET_CLASSES = 1000  # of the weights that torchvision publishes

Rebuild = Callable[[RecognizedNetwork, nn.Module, str | Path], ReusedClassifier]


@dataclass(frozen=True)
class Converted:
    """The content of a third-party checkpoint.

    Attributes:
        state: state dict of the classifier.
        warning: what is left out of the network, if anything.
        rebuild: builds the network that was evaluated from the recognised one and the teacher;
            `warning` is not logged then. None if the state dict is the whole network.
    """

    state: dict[str, Tensor]
    warning: str = ""
    rebuild: Rebuild | None = None


class Reader(Protocol):
    """Reads one layout of checkpoints."""

    def matches(self, payload: dict[str, Any]) -> bool:
        """Return whether a file's content has this layout."""
        ...

    def convert(self, payload: dict[str, Any]) -> Converted:
        """Return the network in a file's content.

        Raises:
            ValueError: if there is no state dict in it.
        """
        ...


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

        def rebuild(
            student: RecognizedNetwork, teacher: nn.Module, path: str | Path
        ) -> ReusedClassifier:
            return simkd.build(student, payload["proj"], teacher, path)

        return Converted(_find_state(payload), warning, rebuild)


class SemCKDReader:
    """SemCKD: a plain student beside the attention, which is used in training only."""

    def matches(self, payload: dict[str, Any]) -> bool:
        """Return whether there is an attention module."""
        return isinstance(payload.get("attention"), dict)

    def convert(self, payload: dict[str, Any]) -> Converted:
        """Return the student without the attention."""
        warning = "SemCKD's attention is left out; only training needs it."
        return Converted(_find_state(payload), warning)


class MDistillerReader:
    """mdistiller: student, teacher and everything in between in one state dict."""

    PREFIX = "student."

    def matches(self, payload: dict[str, Any]) -> bool:
        """Return whether some of the weights are a student's."""
        state = next(_state_dicts(payload), {})
        return any(_strip_wrappers(str(key)).startswith(self.PREFIX) for key in state)

    def convert(self, payload: dict[str, Any]) -> Converted:
        """Return the student's weights only."""
        state = _find_state(payload)
        student = {
            _strip_wrappers(key.removeprefix(self.PREFIX)): value
            for key, value in state.items()
            if key.startswith(self.PREFIX)
        }
        others = sorted({key.partition(".")[0] for key in state} - {self.PREFIX[:-1]})
        warning = f"the student is taken, and {', '.join(others)} left out." if others else ""
        return Converted(student, warning)


class StateDictReader:
    """One state dict, bare or under one of `STATE_KEYS`."""

    def matches(self, payload: dict[str, Any]) -> bool:
        """Return True: this is the reader of last resort."""
        del payload
        return True

    def convert(self, payload: dict[str, Any]) -> Converted:
        """Return the state dict."""
        return Converted(_find_state(payload))


READERS: tuple[Reader, ...] = (
    SimKDReader(),
    SemCKDReader(),
    MDistillerReader(),
    StateDictReader(),
)


def build_third_party(
    payload: dict[str, Any],
    path: str | Path,
    *,
    model: str | None,
    image_size: int,
    teacher: nn.Module | None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network of another project's checkpoint, and a card for it.

    Args:
        payload: the content of the file.
        path: the file, whose folder may name the architecture.
        model: the architecture, if the user named it.
        image_size: side of the images in pixels.
        teacher: the network that the student was trained from, for files that need it.

    Raises:
        InputError: if there is no state dict, or its architecture is unknown.
    """
    reader = next(reader for reader in READERS if reader.matches(payload))
    try:
        converted = reader.convert(payload)
    except ValueError as error:
        raise InputError(f"{path} has no state dict: {error}") from error
    found = recognize_network(converted.state, path, model=model, image_size=image_size)
    card: dict[str, Any] = {"model": found.name, "num_classes": found.num_classes}
    if found.name.startswith("timm:") or found.num_classes == IMAGENET_CLASSES:
        card |= statistics(found.net, found.name)
    if found.image_size != image_size:
        card["image_size"] = found.image_size  # the only one that it can take
    if converted.rebuild and teacher is not None:
        net = converted.rebuild(found, teacher, path)
        return net, {**card, "deploy": net.card}
    if converted.warning:
        log.warning("%s: %s", path, converted.warning)
    return found.net, card


def _state_dicts(payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (payload[key] for key in STATE_KEYS if isinstance(payload.get(key), dict))
    yield payload


def _find_state(payload: dict[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint without the prefixes of wrappers.

    Raises:
        ValueError: if there is none.
    """
    state = next(_state_dicts(payload))
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"none of {', '.join(STATE_KEYS)} holds one; it has "
            f"{', '.join(map(str, list(payload)[:8]))}."
        )
    return {_strip_wrappers(key): value for key, value in state.items()}


def _strip_wrappers(key: str) -> str:
    while key.startswith(WRAPPERS):
        key = key.partition(".")[2]
    return key
