"""The flags of train_student.py; nothing here imports torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from distillers.config.data import Views
from distillers.config.flags import Pretrained, Protocol, require
from distillers.config.sizes import num_bytes
from distillers.config.train import TrainConfig
from distillers.errors import InputError
from distillers.files import file_name


def _words(args: list[str]) -> tuple[str, ...]:
    return tuple(part for arg in args for part in arg.replace(",", " ").split())


Paths = Annotated[
    tuple[str, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="PATH,PATH,...",
        instance_from_str=_words,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(value)] if value else [],
    ),
]

# The documented system's names of methods that have another name here.
PUBLISHED_NAMES = {
    "hint": "fitnet",
    "attention": "at",
    "similarity": "sp",
    "correlation": "cc",
    "abound": "ab",
    "factor": "ft",
}


def canonical_method(method: str) -> str:
    """A method's name in small letters, as the library has it; package.module:Class as it is."""
    method = method.strip()
    return method if ":" in method else method.lower()


@dataclass(frozen=True, kw_only=True)
class StudentConfig(TrainConfig):
    """Distil a student from a trained teacher."""

    path_t: str | None = None
    """The teacher's checkpoint, or its run's folder:
    ./save/teachers/models/resnet32x4_vanilla/resnet32x4_best.pth."""
    model_t: str | None = None
    """The teacher's architecture, where its checkpoint does not tell."""
    model_s: str = "resnet8x4"
    """The student (see `distillers list`)."""
    pretrained: Pretrained = None
    """Start from the weights in this file, or without one from those that timm or torchvision
    publish; a classifier of another number of classes is made anew."""
    distill: str | None = None
    """The method, or several joined by "+", as in crd+kd. Left out: kd, or --loss alone."""
    loss: str | None = None
    """A loss of your own, package.module:Class, beside or instead of --distill."""
    option: Annotated[tuple[tuple[str, ...], ...], UseAppendAction] = ()
    """Options of losses, as in crd.negatives=4096 rrd.dim=64; may be given more than once."""
    protocol: Protocol = "simkd"
    """Whose published weights and rules: simkd reports the best test epoch, crd the last."""
    weight_decay: float = 5e-4
    """L2 penalty of SGD."""
    trial: Annotated[int, arg(aliases=["-t"])] = 1
    """The seed, and part of the folder's name."""
    cls: Annotated[float | None, arg(aliases=["-c", "-r", "--gamma"])] = None
    """Weight of the cross-entropy. Left out: as published."""
    div: Annotated[float | None, arg(aliases=["-d", "-a", "--alpha"])] = None
    """Weight of the KL divergence to the teacher's logits. Left out: as published."""
    beta: Annotated[float | None, arg(aliases=["-b"])] = None
    """Weight of the method. Left out: as published."""
    kd_T: float | None = None  # noqa: N815, the documented spelling
    """Temperature of KD (4)."""
    hint_layer: int | None = None
    """Stage that FitNet compares, from 1."""
    factor: Annotated[int | None, arg(aliases=["-f"])] = None
    """SimKD: how much narrower the projector is inside (2)."""
    soft: Annotated[float | None, arg(aliases=["-s"])] = None
    """SemCKD: softness of its attention (1)."""
    feat_dim: int | None = None
    """Width of the embeddings of CRD, RRD, DCD and CC (128)."""
    mode: Literal["exact", "relax"] | None = None
    """CRD: the positive is the image itself, or any of its class."""
    nce_k: int | None = None
    """Negatives of CRD, queue of RRD (16384)."""
    nce_t: float | None = None
    """Temperature of CRD (0.07)."""
    nce_t_s: float | None = None
    """The student's temperature in RRD (0.1)."""
    nce_t_t: float | None = None
    """The teacher's temperature in RRD (0.02)."""
    nce_m: float | None = None
    """Momentum of CRD's banks (0.5)."""
    memory_type: Literal["fifo", "momentum"] | None = None
    """RRD: a queue, or a bank with momentum."""
    init_epochs: int | None = None
    """Epochs of the first stage of AB, FT and FSP (30)."""
    gather: bool = True
    """Losses that compare the images of a batch compare those of all processes."""
    taps_t: Paths = ()
    """Modules of the teacher whose outputs are its stage maps. Left out: found by rule."""
    taps_s: Paths = ()
    """Likewise of the student."""
    skip_validation: bool = False
    """Do not score the teacher before training."""
    teacher_cache: str | None = None
    """Run the teacher once for each augmented view and keep what it says: auto (in SAVE_DIR), or a
    folder."""
    views: Views | None = None
    """Augmented views that each training image has, or all (every crop and flip). Left out: a new
    one in every epoch, which is what all gives too."""
    cache_budget: str = "20GB"
    """The most that the cache may take on the disk; else the teacher runs in every step."""

    def __post_init__(self) -> None:
        """Write methods in small letters, as the library's names are."""
        super().__post_init__()
        if self.distill is not None:
            plain = "+".join(map(canonical_method, self.distill.split("+")))
            object.__setattr__(self, "distill", plain)

    def methods(self) -> list[str]:
        """The losses asked for by --distill and --loss, by the library's names."""
        distill = self.distill or ("" if self.loss else "kd")
        asked = distill.split("+") if distill else []
        asked = [PUBLISHED_NAMES.get(name, name) for name in asked]
        if self.memory_type == "momentum":
            asked = ["rrdmomentum" if name == "rrd" else name for name in asked]
        return [*asked, *([self.loss] if self.loss else [])]

    def folder(self, ce: float, kd: float, method: float, teacher: str) -> Path:
        """The run's folder."""
        title = file_name("+".join(filter(None, (self.distill, self.loss))) or "kd")
        name = (
            f"S_{file_name(self.model_s)}_T_{file_name(teacher)}_{self.dataset}_{title}"
            f"_r_{ce:g}_a_{kd:g}_b_{method:g}_{self.trial}_{self.digest()}"
        )
        return Path(self.save_dir) / "students" / "models" / name

    def check(self) -> None:
        """Refuse what cannot work; see `TrainConfig.check`."""
        super().check()
        if not self.path_t:
            raise InputError("--path_t is missing: the checkpoint of the teacher to learn from.")
        require("views", self.views, self.views == "all" or (self.views or 1) >= 1, "at least 1")
        num_bytes(self.cache_budget, "cache_budget")
        for name in ("distill", "loss", "teacher_cache"):
            require(name, '""', getattr(self, name) != "", "a name, or left out")
        for name in ("cls", "div", "beta"):
            value = getattr(self, name)
            good = value is None or (math.isfinite(value) and value >= 0)
            require(name, value, good, "0 or more")
