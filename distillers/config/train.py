"""The flags of the documented commands, as typed dataclasses; nothing here imports torch."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distillers.config.data import Dali, DecodeOptions, check_dali
from distillers.config.extras import check_wandb
from distillers.config.flags import Milestones, as_json_types, require
from distillers.errors import InputError

# Flags that change nothing of what a run computes; the folder's name leaves them out.
NO_EFFECT_FLAGS = (
    *("print_freq", "tb_freq", "save_freq", "num_workers", "gpu_id", "data_dir", "save_dir"),
    *("resume", "overwrite", "skip_validation", "dist_url", "multiprocessing_distributed"),
    *("config", "download", "save_minutes", "dist_timeout", "shard", "cache_budget", "wandb"),
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Flags that teachers and students share."""

    trial: int
    protocol: str
    weight_decay: float | None

    dataset: str = "cifar100"
    """cifar100, imagenet, folder (your own images), ... (see `distillers list`)."""
    data_dir: str = "./data"
    """Where data sets lie, or are downloaded to."""
    download: bool = True
    """Download a data set that is not there."""
    val_fraction: float = 0.0
    """Share of the training set held out to choose the best epoch on, or where --dataset folder
    has no val/, to score on."""
    image_size: int | None = None
    """Pixels on a side of the images. Left out: the data set's own; of folders 224, tinyimagenet
    64."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An image that cannot be read stops the run, or is counted and replaced by another."""
    batch_size: int = 64
    """Images a step, on all devices together."""
    num_workers: int = 8
    """Processes that decode images; data sets in memory need none."""
    epochs: int = 240
    """Passes over the training set; they count from 1."""
    learning_rate: float | None = None
    """Left out: 0.05, but 0.01 for MobileNetV2 and the ShuffleNets on CIFAR, as published."""
    lr_decay_epochs: Milestones = (150, 180, 210)
    """The rate drops after each of these epochs."""
    lr_decay_rate: float = 0.1
    """What the rate is multiplied by."""
    momentum: float = 0.9
    """Momentum of SGD, without Nesterov."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Of the step; auto tries them on this device and takes the fastest. Evaluation is fp32."""
    accumulate: int = 1
    """Batches to an optimiser step."""
    clip_grad: float | None = None
    """Largest norm of the gradient."""
    ema: float | None = None
    """Decay of averaged weights, which are then scored and saved; 0.999, say."""
    channels_last: bool = True
    """Keep maps and weights in channels-last order, which is faster."""
    compile: bool = False
    """Compile the step with torch.compile."""
    gpu_id: str | None = None
    """The GPU to use, 0,1,2,3 for one process each, or "cpu". Left out: what there is."""
    deterministic: bool = False
    """Only deterministic kernels, also on a GPU."""
    save_dir: str = "./save"
    """Where run folders are made."""
    resume: bool = False
    """Go on with this very run from what it saved last."""
    overwrite: bool = False
    """Delete an earlier run with the same flags and start anew."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A loss that is not finite stops the run, or the step is taken back and counted."""
    save_minutes: float = 15.0
    """Minutes between two saves within an epoch; 0 saves only at its end."""
    print_freq: int = 100
    """Steps between two looks at the running loss."""
    tb_freq: int = 500
    """Accepted for old scripts; scalars are written every epoch."""
    wandb: str | None = None
    """A project on Weights & Biases to log to; WANDB_MODE=offline keeps it in the folder."""
    save_freq: int = 40
    """Epochs between two checkpoints that are kept; 0 keeps only last and best."""
    dali: Dali = None
    """Decode training images in folders with NVIDIA DALI, on the CPU or on the GPU that trains."""
    multiprocessing_distributed: bool = False
    """Train on all GPUs of --gpu_id, a process each."""
    dist_url: str = "tcp://127.0.0.1:23451"
    """Where those processes meet."""
    dist_timeout: float = 600.0
    """Seconds after which a process gives up waiting for the others."""
    sync_bn: bool = False
    """Batch normalisation over the images of all processes; needs GPUs."""
    shard: bool = False
    """Divide weights, gradients and momentum among the processes (FSDP2)."""
    config: str | None = None
    """A YAML or JSON file of flags, read before the other flags."""

    def __post_init__(self) -> None:
        """Put the home directory in the place of its sign, ~."""
        for name in ("save_dir", "path_t", "path_s", "pretrained"):
            path = getattr(self, name, None)
            if isinstance(path, str) and (path == "~" or path.startswith("~/")):
                object.__setattr__(self, name, str(Path(path).expanduser()))

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the flag, what was given, and what is allowed.
        """
        require("trial", self.trial, 0 <= self.trial < 2**63, "0 to 9223372036854775807")
        side = self.image_size
        require("image_size", side, side is None or side >= 8, "at least 8")
        for name in ("batch_size", "epochs", "accumulate", "print_freq"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("num_workers", "save_freq", "save_minutes", "weight_decay", "momentum"):
            value = getattr(self, name)
            good = value is None or (math.isfinite(value) and value >= 0)
            require(name, value, good, "0 or more")
        for name in ("learning_rate", "lr_decay_rate", "clip_grad", "dist_timeout"):
            value = getattr(self, name)
            good = value is None or (math.isfinite(value) and value > 0)
            require(name, value, good, "greater than 0")
        require("val_fraction", self.val_fraction, 0 <= self.val_fraction < 1, "in [0, 1)")
        require("ema", self.ema, self.ema is None or 0 < self.ema < 1, "between 0 and 1")
        steps = self.lr_decay_epochs
        rising = list(steps) == sorted(set(steps)) and min(steps, default=1) >= 1
        require("lr_decay_epochs", steps, rising, "rising epochs, from 1")
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite contradict each other; choose one.")
        check_dali(self.dali)
        check_wandb(self.wandb)
        if self.on_nan == "skip" and self.accumulate > 1:
            raise InputError("--on_nan skip takes single batches back; leave out --accumulate.")
        if self.shard and self.precision == "fp16":
            raise InputError("--shard goes with --precision fp32 or bf16; fp16 needs one scale.")

    def devices(self) -> tuple[str, ...]:
        """What --gpu_id names, one a process; nothing where it is left out."""
        return tuple(part.strip() for part in (self.gpu_id or "").split(",") if part.strip())

    @property
    def as_published_by_simkd(self) -> bool:
        """Whether the best test epoch is reported, and each epoch's smaller last batch left out."""
        return self.protocol in ("simkd", "public")

    def decode_options(self) -> DecodeOptions:
        """How images in files are read."""
        return DecodeOptions(
            image_size=self.image_size,
            num_workers=self.num_workers,
            on_bad_image=self.on_bad_image,
            val_fraction=self.val_fraction,
            dali=self.dali,
        )

    def as_json_types(self) -> dict[str, Any]:
        """Every flag as JSON types."""
        return as_json_types(dataclasses.asdict(self))

    def digest(self) -> str:
        """Eight hexadecimal digits that differ wherever a flag that matters differs."""
        flags = result_flags(self.as_json_types())
        if "data_dir" in flags:
            flags["data_dir"] = str(Path(self.data_dir).expanduser().resolve())
        return hashlib.sha256(json.dumps(flags, sort_keys=True).encode()).hexdigest()[:8]


def result_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those flags of a run that change what it computes.

    Args:
        flags: all of them, as JSON types.
    """
    kept = {name: value for name, value in flags.items() if name not in NO_EFFECT_FLAGS}
    if flags["dataset"] == "folder":  # whose name does not say which images
        kept["data_dir"] = flags["data_dir"]
    if "teacher_cache" in kept:  # half precision matters, the folder does not
        kept["teacher_cache"] = kept["teacher_cache"] is not None
    return kept
