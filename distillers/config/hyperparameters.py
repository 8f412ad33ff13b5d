"""Hyperparameters of the training loop; nothing here imports torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from distillers.config.flags import (
    AT_LEAST_1,
    INSIDE,
    NOT_NEGATIVE,
    POSITIVE,
    Fact,
    Numbers,
    Range,
    require,
)
from distillers.config.sizes import pluralize
from distillers.errors import InputError, unknown

SCHEDULES = ("constant", "cosine", "multistep", "poly", "rsqrt", "step", "tanh", "wsd")
LOOKAHEAD = "lookahead_"  # prefix of an optimizer's name
DOT = "dot"  # the optimizer of training/dot.py
NEEDS_OPT = ("opt_eps", "opt_betas", "layer_decay")
NEEDS_SCHED = ("decay_epochs", "warmup_epochs", "warmup_lr", "min_lr", "sched_on_updates")
# These update each weight by itself, so that a process can update its part of a parameter.
SHARDABLE = ("adam", "adamw", "lion", "momentum", "nesterov", "sgd")
Precision = Literal["auto", "fp32", "bf16", "fp16"]
DECAY = Range("greater than 0 and at most 1", lambda value: 0 < value <= 1)


@dataclass(frozen=True, kw_only=True)
class StepFlags:
    """Flags of the training step; names and meanings are those of timm where it has them."""

    opt: Annotated[str | None, Fact.PUBLISHED_SETTING] = None
    """Optimizer of timm.optim, as in adamw, lamb or nesterov; biases and normalization layers then
    have no weight decay. timm's sgd has Nesterov momentum. Or dot, for students: SGD with a
    momentum for the teacher and one for the labels. Default: SGD without Nesterov momentum and with
    weight decay of all parameters, as published."""
    opt_eps: Annotated[float | None, POSITIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = None
    """Epsilon of --opt. Default: the optimizer's."""
    opt_betas: Annotated[Numbers, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = ()
    """Betas of --opt, as in 0.9,0.98. Default: the optimizer's."""
    layer_decay: Annotated[float | None, DECAY, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = None
    """Factor of the learning rate from each layer of a timm network to the one below, with --opt.
    Default: all layers have the same learning rate."""
    dot_delta: Annotated[float, NOT_NEGATIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0.075
    """Delta of --opt dot: what it adds to the momentum of the losses that read the teacher, and
    takes from that of the others. Published are 0.075, and 0.09 for ImageNet."""
    momentum: Annotated[float, NOT_NEGATIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0.9
    """Momentum of SGD, and of those optimizers of --opt that have one."""
    sched: Annotated[str | None, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = None
    """Learning rate schedule of timm.scheduler: constant, cosine, multistep, poly, rsqrt, step,
    tanh or wsd. Default: that of --lr_decay_epochs, as published."""
    sched_on_updates: Annotated[bool, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = False
    """Change the learning rate of --sched with every update instead of every epoch."""
    lr_decay_rate: Annotated[float, POSITIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0.1
    """Factor of each learning rate decay; the power of --sched poly."""
    decay_epochs: Annotated[float | None, POSITIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = None
    """Epochs between two decays of --sched step, or of the final decay of wsd and rsqrt, where less
    than 1 is a fraction of the training. Default: 90, or 0.2 for wsd and rsqrt."""
    warmup_epochs: Annotated[int, NOT_NEGATIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0
    """First epochs in which the learning rate rises from --warmup_lr to --learning_rate, with
    --sched. The first stage of AB, FT and FSP is another one, see --init_epochs."""
    warmup_lr: Annotated[float, NOT_NEGATIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 1e-5
    """Learning rate at the start of the warm-up."""
    min_lr: Annotated[float, NOT_NEGATIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = 0.0
    """Learning rate at the end of --sched cosine, tanh, poly, wsd and rsqrt."""
    precision: Annotated[Precision, Fact.PUBLISHED_SETTING] = "fp32"
    """Precision of the training step; auto measures them and takes the fastest. Evaluation is
    fp32."""
    accumulate: Annotated[int, AT_LEAST_1, Fact.PUBLISHED_SETTING] = 1
    """Batches whose gradients are summed for one optimizer step."""
    clip_grad: Annotated[float | None, POSITIVE, Fact.SAME_COST, Fact.PUBLISHED_SETTING] = None
    """Maximum of the gradient, see --clip_mode. Default: no clipping."""
    clip_mode: Annotated[
        Literal["norm", "value", "agc"], Fact.SAME_COST, Fact.PUBLISHED_SETTING
    ] = "norm"
    """What --clip_grad limits: the norm of the whole gradient, each value, or the norm of a unit's
    gradient as a fraction of that of its weights (adaptive gradient clipping)."""
    ema: Annotated[float | None, INSIDE, Fact.PUBLISHED_SETTING] = None
    """Decay of an exponential moving average of the weights, as in 0.999. If given, the averaged
    weights are evaluated and saved."""
    compile: bool = False
    """Compile the training step with torch.compile. The run prints what that cost, and after how
    many epochs it pays."""
    on_nan: Annotated[Literal["stop", "skip"], Fact.PUBLISHED_SETTING] = "stop"
    """What to do if the loss is not finite: stop the run, or undo the step and count it."""
    print_freq: Annotated[int, AT_LEAST_1, Fact.NO_EFFECT] = 100
    """Steps between updates of the displayed loss."""
    shard: Annotated[bool, Fact.NO_EFFECT] = False
    """Shard weights, gradients and optimizer state across processes (FSDP2)."""

    def check_step(self, epochs: int) -> None:
        """Check the flags of the step together."""
        if self.opt not in (None, DOT):
            _check_optimizer(self.opt)
        self._check_dot()
        if self.sched is not None and self.sched not in SCHEDULES:
            raise unknown("schedule", self.sched, SCHEDULES)
        self._check_needs("opt", NEEDS_OPT)
        self._check_needs("sched", NEEDS_SCHED)
        if self.clip_mode != "norm" and self.clip_grad is None:
            raise InputError(f"--clip_mode {self.clip_mode} needs --clip_grad.")
        in_range = all(0 <= beta < 1 for beta in self.opt_betas)
        require("opt_betas", self.opt_betas, in_range, "numbers in [0, 1)")
        shorter = f"less than --epochs {epochs}"
        require("warmup_epochs", self.warmup_epochs, self.warmup_epochs < epochs, shorter)
        if self.sched == "rsqrt" and not self.warmup_epochs:
            raise InputError("--sched rsqrt needs --warmup_epochs.")
        if self.on_nan == "skip" and self.accumulate > 1:
            raise InputError("--on_nan skip undoes single batches; leave out --accumulate.")
        if self.shard:
            self._check_shard()

    def _check_needs(self, flag: str, names: tuple[str, ...]) -> None:
        """Check that flags that refine another one are not given without it."""
        if getattr(self, flag) is None:
            for name in names:
                if getattr(self, name) != getattr(StepFlags, name):
                    raise InputError(f"--{name} needs --{flag}.")

    def _check_dot(self) -> None:
        if self.opt != DOT:
            if self.dot_delta != StepFlags.dot_delta:
                raise InputError("--dot_delta needs --opt dot.")
            return
        low, high = self.momentum - self.dot_delta, self.momentum + self.dot_delta
        is_valid = low >= 0 and high < 1
        require("dot_delta", self.dot_delta, is_valid, "so that --momentum ± it is in [0, 1)")
        for name in ("opt_eps", "opt_betas", "layer_decay", "clip_grad"):
            if getattr(self, name) not in (None, ()):
                raise InputError(f"--opt dot has no --{name}.")

    def _check_shard(self) -> None:
        if self.precision == "fp16":
            raise InputError("--shard supports --precision fp32 and bf16, not fp16.")
        if self.clip_mode == "agc":
            raise InputError("--shard supports --clip_mode norm and value, not agc.")
        if self.opt not in (None, *SHARDABLE):
            raise InputError(f"--shard supports --opt {', '.join(SHARDABLE)}, not {self.opt}.")


def _check_optimizer(name: str) -> None:
    """Check the name of an optimizer of timm."""
    from timm.optim import list_optimizers  # imports torch

    # second derivatives; further packages
    known = list_optimizers(exclude_filters=["adahessian", "bnb*", "fused*"])
    if name.lower().removeprefix(LOOKAHEAD) not in known:
        raise unknown("optimizer", name, [DOT, *map(str, known)])


@dataclass(frozen=True)
class Hyperparameters(StepFlags):
    """Schedule, optimizer and precision of a training; see `StepFlags` for the other attributes.

    Attributes:
        epochs: number of epochs.
        learning_rate: initial learning rate.
        milestones: epochs, counted from 1, after which the rate is multiplied by `lr_decay_rate`,
            without `sched` or with "multistep".
        weight_decay: L2 penalty, or weight decay of `opt`; not of a loss's `no_weight_decay`.
    """

    epochs: int
    learning_rate: float
    milestones: tuple[int, ...] = ()
    weight_decay: float = 5e-4

    def rate(self, epoch: int) -> float:
        """Return the published learning rate of an epoch, counted from 1."""
        passed = sum(epoch > milestone for milestone in self.milestones)
        return self.learning_rate * self.lr_decay_rate**passed


def describe_hparams(hparams: Hyperparameters, batch_size: int, num_batches: int) -> str:
    """Return a line about the optimizer, the learning rate and the batches of all processes."""
    steps = f"batch {batch_size}, {pluralize(num_batches, 'batch')} an epoch"
    if hparams.accumulate > 1:
        steps += f", {hparams.accumulate} batches a step"
    optimizer = "SGD" if hparams.opt is None else hparams.opt
    momentum = f"momentum {hparams.momentum:g}, " if hparams.opt is None else ""
    if hparams.opt == DOT:
        momentum = f"momentum {hparams.momentum:g} ± {hparams.dot_delta:g}, "
    return (
        f"{optimizer}: learning rate {hparams.learning_rate:g}{_describe_schedule(hparams)}; "
        f"{momentum}weight decay {hparams.weight_decay:g}; {pluralize(hparams.epochs, 'epoch')}, "
        f"{steps}"
    )


def _describe_schedule(hparams: Hyperparameters) -> str:
    """Return how the learning rate changes, to be put after its initial value."""
    if hparams.sched in (None, "multistep"):
        decays = [epoch for epoch in hparams.milestones if epoch < hparams.epochs]
        epochs = ", ".join(map(str, decays))
        schedule = (
            f"times {hparams.lr_decay_rate:g} after epochs {epochs}" if decays else "constant"
        )
    else:
        schedule = str(hparams.sched)
    if hparams.warmup_epochs:
        warmup = pluralize(hparams.warmup_epochs, "epoch")
        schedule += f", warm-up of {warmup} from {hparams.warmup_lr:g}"
    return f", {schedule}"
