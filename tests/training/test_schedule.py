"""Learning rates equal those of timm's schedulers, and by default those published."""

from types import SimpleNamespace

import pytest
import torch
from timm.scheduler import create_scheduler_v2

from distillers.config.hyperparameters import SCHEDULES, Hyperparameters
from distillers.errors import InputError
from distillers.training.schedule import Schedule

EPOCHS, UPDATES, MILESTONES = 12, 7, (4, 9)


def optimizer_of(rate: float) -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": parameters[:1], "lr_scale": 0.5}, {"params": parameters[1:]}]
    return torch.optim.SGD(groups, lr=rate)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("by_update", [False, True])
@pytest.mark.parametrize("warmup_epochs", [0, 3])
def test_every_rate_is_that_of_timm(name, by_update, warmup_epochs):
    """Second derivation: a loop that calls the scheduler where timm's train.py does."""
    if name == "rsqrt" and not warmup_epochs:
        pytest.skip("its decay is measured by its warm-up")
    common = {"warmup_epochs": warmup_epochs, "warmup_lr": 1e-4, "min_lr": 1e-3}
    decay = 2.5 if name == "step" else None
    hparams = Hyperparameters(
        EPOCHS,
        0.1,
        MILESTONES,
        sched=name,
        sched_on_updates=by_update,
        decay_epochs=decay,
        lr_decay_rate=0.3,
        **common,
    )
    ours, theirs = optimizer_of(0.1), optimizer_of(0.1)
    scheduler, epochs = create_scheduler_v2(
        theirs,
        name,
        num_epochs=EPOCHS,
        decay_epochs=decay,
        decay_milestones=[m + 1 for m in MILESTONES],
        decay_rate=0.3,
        step_on_epochs=not by_update,
        updates_per_epoch=UPDATES,
        **common,
    )
    if name == "multistep" and by_update:
        scheduler.decay_t = [m * UPDATES + 1 for m in MILESTONES]
    assert epochs == EPOCHS
    schedule = Schedule(ours, hparams, UPDATES)
    updates = 0
    seen = []
    if by_update:
        scheduler.step_update(0)
    else:
        scheduler.step(0)
    for epoch in range(EPOCHS):
        for update in range(UPDATES):
            schedule.set(epoch + 1, update)
            assert rates(ours) == pytest.approx(rates(theirs), rel=1e-12, abs=0)
            assert schedule.rate == pytest.approx(rates(theirs)[1], rel=1e-12)
            seen.append(rates(ours)[1])
            updates += 1
            scheduler.step_update(updates)
        scheduler.step(epoch + 1)
    assert len({round(rate, 12) for rate in seen}) > 1 or name == "constant"


@pytest.mark.parametrize("by_update", [False, True])
def test_multistep_is_the_published_schedule(by_update):
    optimizers = [optimizer_of(0.1) for _ in range(2)]
    schedules = [
        Schedule(
            optimizer,
            Hyperparameters(EPOCHS, 0.1, MILESTONES, sched=name, sched_on_updates=by_update),
            UPDATES,
        )
        for optimizer, name in zip(optimizers, (None, "multistep"), strict=True)
    ]
    for epoch in range(1, EPOCHS + 1):
        for update in range(UPDATES):
            for schedule in schedules:
                schedule.set(epoch, update)
            assert rates(optimizers[0]) == pytest.approx(rates(optimizers[1]), rel=1e-12)


def test_rates_depend_on_nothing_but_epoch_and_update():
    hparams = Hyperparameters(EPOCHS, 0.1, sched="cosine", sched_on_updates=True, warmup_epochs=2)
    straight, jumping = optimizer_of(0.1), optimizer_of(0.1)
    schedule = Schedule(straight, hparams, UPDATES)
    for epoch in range(1, 6):
        for update in range(UPDATES):
            schedule.set(epoch, update)
    jumping.load_state_dict(straight.state_dict())  # as when a run is resumed
    Schedule(jumping, hparams, UPDATES).set(5, UPDATES - 1)
    assert rates(jumping) == rates(straight)


def test_a_first_stage_has_the_initial_rate():
    hparams = Hyperparameters(EPOCHS, 0.1, sched="cosine", warmup_epochs=2)
    optimizer = optimizer_of(0.1)
    Schedule(optimizer, hparams, UPDATES).set(0)
    assert rates(optimizer) == [0.05, 0.1]


def test_a_decay_longer_than_the_run_is_refused():
    hparams = Hyperparameters(EPOCHS, 0.1, sched="wsd", decay_epochs=EPOCHS + 1.0)
    with pytest.raises(InputError, match="--sched wsd cannot be created: wsd schedule requires"):
        Schedule(optimizer_of(0.1), hparams, UPDATES)


def test_published_rates_are_set_as_floats():
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
    Schedule(optimizer, Hyperparameters(240, 0.05, (150, 180, 210)), 1).set(151)
    assert optimizer.param_groups[0]["lr"] == 0.05 * 0.1
