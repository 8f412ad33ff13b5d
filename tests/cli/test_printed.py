"""What every run prints about its training."""

import pytest

from distillers.config.hyperparameters import Hyperparameters, describe_hparams


@pytest.mark.parametrize(
    ("hparams", "expected"),
    [
        (
            Hyperparameters(240, 0.05, (150, 180, 210)),
            "SGD: learning rate 0.05, times 0.1 after epochs 150, 180, 210; momentum 0.9, "
            "weight decay 0.0005; 240 epochs, batch 64, 782 batches an epoch",
        ),
        (
            Hyperparameters(10, 0.1, (150,), accumulate=4),
            "SGD: learning rate 0.1, constant; momentum 0.9, weight decay 0.0005; 10 epochs, "
            "batch 64, 782 batches an epoch, 4 batches a step",
        ),
        (
            Hyperparameters(10, 1e-3, opt="adamw", sched="cosine", warmup_epochs=2),
            "adamw: learning rate 0.001, cosine, warm-up of 2 epochs from 1e-05; "
            "weight decay 0.0005; 10 epochs, batch 64, 782 batches an epoch",
        ),
    ],
)
def test_rate_schedule_and_batch(hparams, expected):
    assert describe_hparams(hparams, 64, 782) == expected
