"""One `Case` per loss, for the tests in `test_contract.py`. A loss without a case fails them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from distillers.losses import wiring

CLASSES = 5
NUM_TRAIN = 40
BLOCKS = 3  # of a network that shows its tokens


@dataclass(frozen=True)
class Case:
    """How to build a loss, and how it may deviate from the contract.

    Attributes:
        options: options by name, if the defaults are too large for a test.
        batch: images per step.
        student: (channels, height, width) of each stage of the student.
        teacher: the same of the teacher.
        stem: (channels, height, width) of both stems.
        refuses_one: a batch of one raises a ValueError.
        unread: student inputs, or parts such as "student_maps[0]", that get no gradient.
        holds_gradient_back: part of the loss is detached on purpose, so gradcheck does not apply.
        waits: the host waits for the GPU, as linear algebra routines do.
        tolerance: relative tolerance of the value under bfloat16 autocast.
        signed: options that may be negative.
        largest: largest features that must be finite under float16 autocast, whose limit is 6.5e4.
    """

    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 6
    student: tuple[tuple[int, int, int], ...] = ((4, 8, 8), (6, 4, 4), (8, 2, 2))
    teacher: tuple[tuple[int, int, int], ...] = ((5, 8, 8), (7, 4, 4), (10, 2, 2))
    stem: tuple[int, int, int] = (3, 8, 8)
    refuses_one: bool = False
    unread: tuple[str, ...] = ()
    holds_gradient_back: bool = False
    waits: bool = False
    tolerance: float = 2e-2
    signed: tuple[str, ...] = ()
    largest: float = 6e4

    def facts(self) -> dict[str, Any]:
        """Return all facts that a loss may require, the same on each call."""
        generator = torch.Generator().manual_seed(1)
        head = nn.Linear(self.teacher[-1][0], CLASSES)
        with torch.no_grad():
            head.weight.normal_(generator=generator)
            head.bias.normal_(generator=generator)
        return {
            "student_dim": self.student[-1][0],
            "teacher_dim": self.teacher[-1][0],
            "student_channels": [stage[0] for stage in self.student],
            "teacher_channels": [stage[0] for stage in self.teacher],
            "student_sizes": [stage[1:] for stage in self.student],
            "teacher_sizes": [stage[1:] for stage in self.teacher],
            "teacher_head": head.requires_grad_(False),
            "train_labels": torch.arange(NUM_TRAIN) * 3 % CLASSES,
            "num_classes": CLASSES,
            "batch_size": self.batch,
        }

    def build(self, cls: type[nn.Module], **changes: Any) -> nn.Module:
        """Build the loss, with the same parameters on each call; `changes` replaces facts."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return wiring.build(cls, self.facts() | changes, self.options)

    def inputs(
        self,
        cls: type[nn.Module],
        *,
        batch: int | None = None,
        seed: int = 3,
        function: Callable | None = None,
    ) -> dict:
        """Return float32 inputs of `forward` or `function`; maps are non-negative."""
        n = self.batch if batch is None else batch
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(n, *shape, generator=generator)

        index = torch.randperm(NUM_TRAIN, generator=generator)[:n]
        values: dict[str, Any] = {
            "labels": self.facts()["train_labels"][index],
            "index": index,
            "progress": 0.5,
        }
        for who, stages in (("student", self.student), ("teacher", self.teacher)):
            values |= {
                f"{who}_logits": 2 * normal(CLASSES),
                f"{who}_pooled": normal(stages[-1][0]).abs(),
                f"{who}_maps": [normal(*stage).abs() for stage in stages],
                f"{who}_preacts": [normal(*stage) for stage in stages],
                f"{who}_final": normal(*stages[-1]).abs(),
                f"{who}_stem": normal(*self.stem),
            }
        values["targets"] = normal(CLASSES).softmax(dim=1)
        for who, stages in (("student", self.student), ("teacher", self.teacher)):
            values |= {
                f"{who}_logits_strong": 2 * normal(CLASSES),
                f"{who}_class_maps": 2 * normal(CLASSES, *stages[-1][1:]),
                f"{who}_tokens": [normal(4, stages[-1][0]) for _ in range(BLOCKS)],
            }
        return {name: values[name] for name in wiring.forward_inputs(function or cls.forward)}


def tensors(inputs: dict, who: str) -> dict[str, Tensor]:
    """Return the floating-point inputs of student or teacher by name, also those in lists."""
    found = {}
    for name, value in inputs.items():
        if name.startswith(who):
            each = value if isinstance(value, list) else [value]
            for i, tensor in enumerate(each):
                found[f"{name}[{i}]" if isinstance(value, list) else name] = tensor
    return found


def mapped(inputs: dict, change: Any) -> dict:
    """Apply `change` to every floating-point tensor of the inputs."""

    def apply(value: Any) -> Any:
        if isinstance(value, list):
            return [apply(each) for each in value]
        return change(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    return {name: apply(value) for name, value in inputs.items()}


def exported() -> dict[str, type[nn.Module]]:
    """Return all classes that `distillers.losses` exports, by their names on the command line."""
    return wiring.losses()


def hyperparameters(cls: type[nn.Module]) -> list[inspect.Parameter]:
    """Return the parameters of `__init__` without self."""
    if cls.__init__ is nn.Module.__init__:
        return []
    return list(inspect.signature(cls).parameters.values())


EQUAL_CHANNELS = ((4, 8, 8), (6, 4, 4), (8, 2, 2))

CASES: dict[str, Case] = {
    "ce": Case(),
    "softce": Case(),
    "bce": Case(),
    "kd": Case(),
    "fitnet": Case(unread=("student_maps[0]", "student_maps[2]")),
    "at": Case(),
    "sp": Case(unread=("student_maps[0]", "student_maps[1]")),
    "vid": Case(),
    "crd": Case(options={"negatives": 7, "dim": 6}),
    "srrl": Case(refuses_one=True),
    "semckd": Case(refuses_one=True),
    "simkd": Case(unread=("student_maps[0]", "student_maps[1]")),
    "rrd": Case(options={"queue_size": 16, "dim": 6}),
    "rrdmomentum": Case(options={"dim": 6}),
    "dcd": Case(options={"dim": 6}, signed=("initial_log_scale",)),
    "ab": Case(),
    "cc": Case(),
    "dist": Case(),
    "dkd": Case(options={"ramp": 0.75}),
    "ega": Case(),
    "fsp": Case(student=EQUAL_CHANNELS, teacher=EQUAL_CHANNELS),
    "ft": Case(unread=("student_maps[0]", "student_maps[1]"), holds_gradient_back=True),
    "itrd": Case(),
    "kdsvd": Case(student=EQUAL_CHANNELS, teacher=EQUAL_CHANNELS, waits=True),
    "nkd": Case(),
    "nst": Case(),
    "ofd": Case(),
    "pkt": Case(),
    "reviewkd": Case(
        refuses_one=True, largest=2e4
    ),  # its fusions are initialized with large weights
    "rkd": Case(),
    "wsld": Case(holds_gradient_back=True),
    "rld": Case(options={"ramp": 0.75}),
    "ttm": Case(),
    "wttm": Case(),
    "normkd": Case(),
    "luminet": Case(options={"ramp": 0.75}),
    "ctkd": Case(signed=("initial",), holds_gradient_back=True),
    "wkdl": Case(),
    "srd": Case(refuses_one=True),
    "vkd": Case(),
    "ickd": Case(unread=("student_maps[0]", "student_maps[1]")),
    "distplus": Case(unread=("student_maps[0]", "student_maps[1]")),
    "embedmatch": Case(),
    "mapmatch": Case(unread=("student_maps[0]", "student_maps[1]")),
    "queuekl": Case(options={"queue_size": 16}),
    "wkdf": Case(unread=("student_maps[0]", "student_maps[1]")),
    "irg": Case(unread=("student_maps[0]", "student_maps[1]", "student_maps[2]")),
    "hkd": Case(unread=("student_pooled",)),
    "mlkd": Case(),
    "crld": Case(),
    "sdd": Case(),
    "skd": Case(),
    "ofa": Case(largest=1e4),
    "vitkd": Case(largest=1e3),
    "catkd": Case(),
    "mgd": Case(unread=("student_maps[0]", "student_maps[1]"), largest=1e3),
}
