"""What the loop tells of an epoch: means, waiting, and when."""

import io
import time

import pytest
import torch

from distillers.distillation.task import Supervised
from distillers.distributed.world import World
from distillers.errors import NonFiniteLossError
from distillers.losses import CE
from distillers.progress import Progress
from distillers.training.metrics import EpochMetrics
from distillers.training.trainer import Hyperparameters, Trainer, TrainProgress
from tests.nets import Small, make_batch


class Batches:
    def __init__(self, count: int = 5, seconds: float = 0.0) -> None:
        self.count, self.seconds = count, seconds

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int, start_batch: int = 0):
        for number in range(start_batch, self.count):
            time.sleep(self.seconds)
            yield make_batch(seed=number)


def trainer(print_freq: int = 100) -> Trainer:
    torch.manual_seed(0)
    return Trainer(Supervised(Small(), CE()), Hyperparameters(1, 0.1, print_freq=print_freq))


def test_the_share_of_time_that_is_waited_for_data_is_told():
    slow = trainer().train_epoch(Batches(seconds=0.1), TrainProgress(0))["waited"]
    quick = trainer().train_epoch(Batches(), TrainProgress(0))["waited"]
    assert 0.5 < slow < 1
    assert 0 <= quick < slow


def test_a_person_sees_only_waiting_that_matters():
    for share, seen in ((0.2, True), (0.01, False)):
        stream = io.StringIO()
        Progress(1, 5, stream=stream).epoch(1, {"images_per_second": 1.0, "waited": share})
        assert ("20 % of the time waiting for data" in stream.getvalue()) == seen


def test_figures_are_those_of_their_step_and_read_a_step_later():
    one, told, done = trainer(print_freq=2), [], []
    training_step = one.training_step
    one.training_step = lambda *args: (training_step(*args), done.append(args[2]))
    one.train_epoch(Batches(), TrainProgress(0), lambda *given: told.append((*given, len(done))))
    assert [(epoch, number, when) for epoch, number, _, when in told] == [(1, 2, 3), (1, 4, 5)]
    twin = trainer()
    for number in (1, 2):
        twin.training_step(make_batch(seed=number - 1), 0.0, number)
    assert told[0][2]["train_loss"] == twin.metrics.compute()["train_loss"]


def test_the_last_figures_of_an_epoch_are_not_lost():
    told = []
    trainer(print_freq=5).train_epoch(
        Batches(), TrainProgress(0), lambda *given: told.append(given[1])
    )
    assert told == [5]


def test_what_was_looked_at_does_not_change_with_later_steps():
    one = trainer()
    one.training_step(make_batch(), 0.0, 1)
    look, expected = one.metrics.start_compute(), one.metrics.compute()["train_loss"]
    one.training_step(make_batch(seed=1), 0.0, 2)
    assert look()["train_loss"] == expected
    assert one.metrics.compute()["train_loss"] != expected


def test_a_tally_goes_on_from_its_state_and_from_one_without_waiting():
    one = trainer()
    one.training_step(make_batch(), 0.0, 1)
    state = one.metrics.state(World(device=torch.device("cpu")))
    again = EpochMetrics(state)
    assert again.compute()["train_loss"] == one.metrics.compute()["train_loss"]
    del state["waited"]
    assert EpochMetrics(state).compute()["waited"] == pytest.approx(0)


def test_a_loss_that_is_not_finite_is_told_a_step_late_too():
    one = trainer(print_freq=1)
    with torch.no_grad():
        one.task.student.fc.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match="at batch 1"):
        one.train_epoch(Batches(), TrainProgress(0), lambda *_: None)
