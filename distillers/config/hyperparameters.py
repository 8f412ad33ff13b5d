"""Hyperparameters of the training loop; nothing here imports torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hyperparameters:
    """Schedule, optimizer and precision of a training.

    Attributes:
        epochs: number of epochs.
        learning_rate: initial learning rate.
        milestones: epochs, counted from 1, after which the rate is multiplied by `lr_decay_rate`.
        lr_decay_rate: factor of each decay.
        momentum: momentum of SGD, without Nesterov as published.
        weight_decay: L2 penalty of all parameters except a loss's `no_weight_decay`.
        precision: "fp32", "bf16" or "fp16" (with loss scaling).
        accumulate: batches whose gradients are summed for one optimizer step.
        clip_grad: maximum norm of the gradient, or None.
        ema: decay of averaged weights, which are then evaluated and saved, or None.
        compile: compile the training step.
        print_freq: steps between updates of the displayed loss.
        on_nan: "stop" if the loss is not finite, or "skip" the step, which synchronizes with the
            device in every step.
        shard: shard weights, gradients and optimizer state across processes.
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
        """Return the learning rate of an epoch, counted from 1."""
        passed = sum(epoch > milestone for milestone in self.milestones)
        return self.learning_rate * self.lr_decay_rate**passed
