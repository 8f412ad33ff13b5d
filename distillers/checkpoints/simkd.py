"""The network that a SimKD checkpoint of its authors' code was scored with, built again."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from distillers.checkpoints.third_party import SIZES, Imported, log
from distillers.errors import InputError
from distillers.features.classifier import head_of
from distillers.features.infer import find_taps
from distillers.features.taps import FeatureExtractor, Taps, eval_mode
from distillers.losses.ops.reused_classifier import ReusedClassifier
from distillers.losses.ops.stages import same_size
from distillers.losses.simkd import SimKD
from distillers.models.registry import SMALL_IMAGES


def build(
    student: Imported, between: dict[str, Tensor], teacher: nn.Module, path: str | Path
) -> ReusedClassifier:
    """Student backbone, the file's projector, and the classifier of the teacher.

    Such a file holds the student and the projector, but neither the classifier nor the size of the
    teacher's map, to which a larger map of the student is averaged down.

    Args:
        student: the plain student in the file.
        between: the projector in the file, called `proj` there.
        teacher: the very network that the student was trained from.
        path: of the file, for messages.

    Raises:
        InputError: when the three do not fit together.
    """
    state = {".".join(key.split(".")[-2:]): value for key, value in between.items()}
    convolutions = [value for value in state.values() if value.ndim == 4]
    if len(convolutions) != 3:
        raise InputError(
            f"{path}: its `proj` has {len(convolutions)} convolutions; SimKD's projector has three."
        )
    channels, width = convolutions[0].shape[1], convolutions[0].shape[0]
    size = SIZES[0] if student.name in SMALL_IMAGES else SIZES[1]
    images = torch.zeros(2, 3, size, size)
    student_taps, teacher_taps = find_taps(student.net, images), find_taps(teacher, images)
    cast(Any, student.net).taps = student_taps  # it is cut where it is read
    shown = _read(student.net, student_taps, "maps", images)
    final = _read(teacher, teacher_taps, "final", images)
    head, dim = head_of(teacher, teacher_taps, images), convolutions[2].shape[0]
    if head is None or final.shape[1] != dim or shown.shape[1] != channels:
        raise InputError(
            f"{path}: its projector maps {channels} channels to {dim}, while the last map of "
            f"{student.name} has {shown.shape[1]} and that of {type(teacher).__name__} "
            f"{final.shape[1]}; is this the teacher that it was trained from?"
        )
    loss = SimKD([channels], dim, head, factor=dim // width)
    size = same_size(shown, final)[0].shape[-2:]
    if size != shown.shape[-2:]:
        loss.teacher_size.copy_(torch.tensor(size))
    try:
        loss.projector.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: its `proj` is not SimKD's projector: {error}") from error
    log.warning("%s: built with its projector and the teacher's classifier.", path)
    return cast(ReusedClassifier, loss.deploy(student.net))


@torch.no_grad()
def _read(net: nn.Module, taps: Taps, kind: str, images: Tensor) -> Tensor:
    """The last map (n, c, h, w) of a kind, in evaluation mode."""
    reader = FeatureExtractor(net, taps, [kind])
    try:
        with eval_mode(net):
            value = reader(images)[kind]
    finally:
        reader.close()
    return value if isinstance(value, Tensor) else value[-1]
