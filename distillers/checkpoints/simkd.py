"""Rebuild the network that was evaluated from a checkpoint of the SimKD authors' code."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from distillers.checkpoints.architecture import RecognizedNetwork, log
from distillers.checkpoints.shapes import SIZES
from distillers.errors import InputError
from distillers.features.classifier import copy_classifier
from distillers.features.infer import infer_taps
from distillers.features.trace import ForwardTrace
from distillers.losses.ops.feature_maps import same_size
from distillers.losses.ops.reused_classifier import ReusedClassifier
from distillers.losses.simkd import SimKD
from distillers.models.registry import SMALL_IMAGES


def build(
    projector: dict[str, Tensor], student: RecognizedNetwork, teacher: nn.Module, path: str | Path
) -> ReusedClassifier:
    """Join the file's projector, the student's backbone and the teacher's classifier.

    Such a file holds the student and the projector, but neither the classifier nor the size of the
    teacher's map, to which a larger map of the student is average-pooled.

    Raises:
        InputError: if the three do not fit together.
    """
    state = {".".join(key.split(".")[-2:]): value for key, value in projector.items()}
    convolutions = [value for value in state.values() if value.ndim == 4]
    if len(convolutions) != 3:
        raise InputError(
            f"{path}: its `proj` has {len(convolutions)} convolutions; SimKD's projector has three."
        )
    channels, width = convolutions[0].shape[1], convolutions[0].shape[0]
    size = SIZES[0] if student.name in SMALL_IMAGES else SIZES[1]
    images = torch.zeros(2, 3, size, size)
    student_trace, teacher_trace = ForwardTrace(student.net, images), ForwardTrace(teacher, images)
    student_taps, teacher_taps = infer_taps(student_trace), infer_taps(teacher_trace)
    student_map = student_trace.read(student_taps, ["maps"])["maps"][-1]
    teacher_map = cast(Tensor, teacher_trace.read(teacher_taps, ["final"])["final"])
    head, dim = copy_classifier(teacher_trace, teacher_taps), convolutions[2].shape[0]
    if head is None or teacher_map.shape[1] != dim or student_map.shape[1] != channels:
        raise InputError(
            f"{path}: its projector maps {channels} channels to {dim}, while the last map of "
            f"{student.name} has {student_map.shape[1]} and that of {type(teacher).__name__} "
            f"{teacher_map.shape[1]}; is this the teacher that it was trained from?"
        )
    loss = SimKD([channels], dim, head, factor=dim // width)
    size = same_size(student_map, teacher_map)[0].shape[-2:]
    if size != student_map.shape[-2:]:
        loss.teacher_size.copy_(torch.tensor(size))
    try:
        loss.projector.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: its `proj` is not SimKD's projector: {error}") from error
    log.warning("%s: built with its projector and the teacher's classifier.", path)
    return cast(ReusedClassifier, loss.deploy(student.net, student_taps))
