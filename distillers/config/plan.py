"""How to train: schedule, optimiser, precision."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: they count from 1.
        learning_rate: of the first epoch.
        milestones: after each of these epochs the rate is multiplied by `lr_decay_rate`.
        lr_decay_rate: see `milestones`.
        momentum: of SGD, without Nesterov as published.
        weight_decay: on every parameter but those that a loss names in `no_weight_decay`.
        precision: "fp32", "bf16" or "fp16" (with loss scaling).
        accumulate: batches to an optimiser step.
        clip_grad: the largest allowed norm of the gradient, or None.
        ema: decay of the averaged weights that are scored and saved, or None.
        compile: compile the step.
        print_freq: batches between two looks at the running loss.
        on_nan: "stop" at a loss that is not finite, or "skip" the step, which waits for the device
            at every step.
        shard: divide weights, gradients and momentum among several processes.
    """

    epochs: int
    learning_rate: float
    milestones: tuple[int, ...] = ()
    lr_decay_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "fp32"
    accumulate: int = 1
    clip_grad: float | None = None
    ema: float | None = None
    compile: bool = False
    print_freq: int = 100
    on_nan: str = "stop"
    shard: bool = False

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch: it drops when the epoch is past a milestone."""
        passed = sum(epoch > milestone for milestone in self.milestones)
        return self.learning_rate * self.lr_decay_rate**passed
