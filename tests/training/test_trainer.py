import io
import math
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from distillers import models
from distillers.config.student import StudentConfig
from distillers.data.batch import Batch
from distillers.distillation import loss_weights
from distillers.distillation.build import distil
from distillers.distillation.task import Supervised
from distillers.distributed.world import World
from distillers.errors import InputError, NonFiniteLossError, PreemptedError
from distillers.losses import CE
from distillers.training.ema import ExponentialMovingAverage
from distillers.training.optim import parameter_groups
from distillers.training.preemption import PreemptionHandler
from distillers.training.run_setup import build_hparams
from distillers.training.state import TrainState
from distillers.training.trainer import Hyperparameters, Trainer, TrainProgress, fit
from tests.nets import Declared, Small, make_batch


class Batches:
    """Four different batches, in an order that the epoch decides."""

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int, start: int = 0):
        return (make_batch(seed=100 * epoch + i) for i in range(start, self.count))


def supervised(seed: int = 0) -> Supervised:
    torch.manual_seed(seed)
    return Supervised(Small(), CE())


def run(task, hparams, resumed=None, on_epoch_end=None):
    rows, states = [], []

    def note(row, state, deployed):
        rows.append(row)
        states.append(state)
        if on_epoch_end:
            on_epoch_end(row, state, deployed)

    fit(
        task,
        Batches(),
        hparams,
        evaluate=lambda _: {"test_acc": 0.0},
        on_epoch_end=note,
        resumed=resumed,
    )
    return rows, states


def load_state(buffer):
    return TrainState(**torch.load(buffer, weights_only=True))


def weights(task):
    return torch.cat([v.flatten().double() for v in task.state_dict().values()])


def test_the_rate_drops_after_a_milestone():
    hparams = Hyperparameters(epochs=240, learning_rate=0.05, milestones=(150, 180, 210))
    assert hparams.rate(150) == 0.05
    assert hparams.rate(151) == pytest.approx(0.005)
    assert hparams.rate(211) == pytest.approx(5e-5)


def test_epochs_count_from_one_and_rates_are_recorded():
    rows, _ = run(supervised(), Hyperparameters(epochs=3, learning_rate=0.1, milestones=(2,)))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.1, 0.01])


def test_the_step_is_sgd_as_published():
    """A second derivation: v = m v + (g + wd w), w = w - lr v, without Nesterov."""
    task, twin = supervised(), supervised()
    trainer = Trainer(
        task, Hyperparameters(epochs=1, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    )
    velocity = [torch.zeros_like(p) for p in twin.parameters()]
    for seed in range(3):
        batch = make_batch(seed=seed)
        trainer.backward(batch, 0.0)
        trainer.optimizer_step()
        twin.zero_grad()
        twin(batch).loss.backward()
        with torch.no_grad():
            for p, v in zip(twin.parameters(), velocity, strict=True):
                v.mul_(0.9).add_(p.grad + 0.01 * p)
                p.sub_(0.1 * v)
    torch.testing.assert_close(weights(task), weights(twin))


def test_accumulated_batches_give_the_mean_gradient():
    task, twin = supervised(), supervised()
    task.eval()
    twin.eval()
    trainer = Trainer(task, Hyperparameters(epochs=1, learning_rate=0.1, accumulate=2))
    for seed in (0, 1):
        trainer.backward(make_batch(seed=seed), 0.0, accumulation=2)
    (sum(twin(make_batch(seed=seed)).loss for seed in (0, 1)) / 2).backward()
    for p, q in zip(task.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_left_over_batch_is_weighted_by_its_own_group():
    """Five batches, two to a step: the last step has one batch and its full gradient."""
    task = supervised()
    trainer = Trainer(task, Hyperparameters(epochs=1, learning_rate=0.1, accumulate=2))
    seen = []
    original = trainer.backward
    trainer.backward = lambda batch, progress, together: (
        seen.append(together),
        original(batch, progress, together),
    )[1]
    trainer.train_epoch(Batches(5), TrainProgress(0))
    assert seen == [2, 2, 2, 2, 1]


def test_clipping_bounds_the_gradient():
    task = supervised()
    trainer = Trainer(
        task,
        Hyperparameters(epochs=1, learning_rate=1.0, momentum=0, weight_decay=0, clip_grad=1e-3),
    )
    before = weights(task)
    task.eval()
    trainer.backward(make_batch(), 0.0)
    trainer.optimizer_step()
    assert (weights(task) - before).norm() == pytest.approx(1e-3, rel=1e-3)


def test_resuming_gives_the_same_bits():
    hparams = Hyperparameters(epochs=4, learning_rate=0.1, milestones=(2,), ema=0.9)
    whole = supervised()
    run(whole, hparams)
    first = supervised()
    copies = []

    def keep(row, state, deployed):
        buffer = io.BytesIO()
        torch.save(vars(state), buffer)
        copies.append(buffer)

    run(first, hparams, on_epoch_end=keep)
    copies[1].seek(0)
    second = supervised(seed=7)
    run(second, hparams, resumed=load_state(copies[1]))
    assert torch.equal(weights(second), weights(whole))


OPTIONS = {
    "adamw": {"opt": "adamw", "opt_betas": (0.9, 0.98)},
    "lookahead": {"opt": "lookahead_nesterov", "clip_grad": 0.1, "clip_mode": "agc"},
    "cosine": {"sched": "cosine", "warmup_epochs": 1, "sched_on_updates": True},
    "multistep": {"sched": "multistep", "opt": "lamb", "clip_grad": 0.01, "clip_mode": "value"},
}


class StopsAt(PreemptionHandler):
    """Saves the state after a step, through the bytes of a file, and stops there."""

    def __init__(self, step: int) -> None:
        super().__init__(World(), lambda _: None)
        self.step, self.seen, self.buffer = step, 0, io.BytesIO()

    def after_step(self, snapshot) -> None:
        self.seen += 1
        if self.seen == self.step:
            torch.save(vars(snapshot()[0]), self.buffer)
            raise PreemptedError(signal.SIGTERM)


@pytest.mark.parametrize("step", [1, 3, 4, 6])
@pytest.mark.parametrize(
    ("accumulate", "option"), [(1, None), (2, None), *((2, option) for option in OPTIONS)]
)
def test_resuming_within_an_epoch_gives_the_same_bits_and_figures(step, accumulate, option):
    hparams = Hyperparameters(
        epochs=3,
        learning_rate=0.1,
        ema=0.9,
        accumulate=accumulate,
        milestones=(1,),
        **OPTIONS.get(option, {}),
    )

    def task(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(Small(), nn.Dropout(0.2))
        return Supervised(net, CE())

    whole = task(0)
    rows, _ = run(whole, hparams)
    twin, stopping = task(0), StopsAt(step)
    with pytest.raises(PreemptedError, match="SIGTERM"):
        fit(
            twin,
            Batches(),
            hparams,
            evaluate=lambda _: {"test_acc": 0.0},
            on_epoch_end=lambda *_: None,
            preemption=stopping,
        )
    stopping.buffer.seek(0)
    again = task(7)
    torch.manual_seed(99)
    found, _ = run(again, hparams, resumed=load_state(stopping.buffer))
    assert torch.equal(weights(again), weights(whole))
    for row, expected in zip(found, rows[-len(found) :], strict=True):
        timed = ("images_per_second", "waited")
        assert {k: v for k, v in row.items() if k not in timed} == {
            k: v for k, v in expected.items() if k not in timed
        }


class Drawn(Batches):
    """Ten batches of eight images each."""

    def epoch(self, epoch: int, start: int = 0):
        for i in range(start, self.count):
            generator = torch.Generator().manual_seed(100 * epoch + i)
            images = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64)
            labels = torch.randint(5, (8,), generator=generator)
            yield Batch(images, labels, torch.arange(8))


def test_documented_defaults_give_the_weights_that_they_always_gave():
    """Weights after 20 steps of `--distill kd`, written down before there was `--opt`."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    student, teacher = (
        models.create(name, num_classes=5, image_size=8).double()
        for name in ("resnet8", "resnet14")
    )
    config = StudentConfig(path_t="x", distill="kd")
    task = distil(student, teacher, loss_weights.choose(config).terms(), images=images)
    fit(task, Drawn(10), replace(build_hparams(config, "resnet8", 8), epochs=2))
    parameters = torch.cat([p.detach().flatten() for p in task.parameters()])
    statistics = torch.cat([buffer.flatten().double() for buffer in task.buffers()])
    positions = torch.arange(len(parameters)).double().cos()
    found = parameters.sum(), parameters.norm(), parameters @ positions, statistics.norm()
    expected = 296.39695760215807, 28.414532644155233, -40.41421695225064, 61.77254906039076
    assert [float(each) for each in found] == pytest.approx(expected, rel=1e-9)


def test_training_ends_when_it_is_told_to():
    task, rows = supervised(), []
    fit(
        task,
        Batches(),
        Hyperparameters(epochs=9, learning_rate=0.1),
        on_epoch_end=lambda row, *_: rows.append(row["epoch"]),
        should_stop=lambda: len(rows) == 2,
    )
    assert rows == [1, 2]


def test_a_state_of_another_network_is_refused():
    _, states = run(supervised(), Hyperparameters(epochs=1, learning_rate=0.1))
    other = Supervised(Declared(6), CE())
    with pytest.raises(InputError, match=r"of another network or method: see student\."):
        run(other, Hyperparameters(epochs=2, learning_rate=0.1), resumed=states[0])


@pytest.mark.parametrize("where", ["images", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_as_if_it_had_not_been(where):
    """Second derivation: the same run without that batch."""
    spoilt, plain = supervised(), supervised()
    trainers = [
        Trainer(task, Hyperparameters(epochs=1, learning_rate=0.1, on_nan="skip"))
        for task in (spoilt, plain)
    ]
    for number in range(4):
        batch = make_batch(seed=number)
        if number != 2:
            trainers[1].training_step(batch, 0.0, number)
        elif where == "images":
            batch.images[0, 0, 0, 0] = math.nan
        else:
            hook = spoilt.student.fc.weight.register_hook(lambda grad: grad * math.inf)
        trainers[0].training_step(batch, 0.0, number)
        if number == 2 and where == "gradient":
            hook.remove()
    assert torch.equal(weights(spoilt), weights(plain))
    assert trainers[0].metrics.compute()["skipped"] == 1
    assert "skipped" not in trainers[1].metrics.compute()


def test_nothing_but_bad_batches_stops_the_run():
    task = supervised()
    with torch.no_grad():
        next(task.parameters()).fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match="no batch had a finite loss"):
        run(task, Hyperparameters(epochs=1, learning_rate=0.1, on_nan="skip"))


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    hparams = Hyperparameters(epochs=2, learning_rate=0.1)
    a, b, c = supervised(), supervised(), supervised(seed=1)
    for task in (a, b, c):
        run(task, hparams)
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), weights(c))


def test_the_average_is_what_its_formula_says():
    net = nn.Linear(2, 2)
    average = ExponentialMovingAverage(net, 0.2)
    expected = net.weight.detach().clone()
    for decay in (2 / 11, 0.2, 0.2):  # the first is of the warm-up
        with torch.no_grad():
            net.weight.add_(1.0)
        average.update()
        expected = decay * expected + (1 - decay) * net.weight.detach()
    raw = net.weight.detach().clone()
    with average.swapped():
        torch.testing.assert_close(net.weight.detach(), expected)
    assert torch.equal(net.weight, raw)


def test_the_average_of_a_short_run_forgets_its_random_start():
    net = nn.Linear(2, 2)
    average = ExponentialMovingAverage(net, 0.9999)
    with torch.no_grad():
        net.weight.fill_(1.0)
    for _ in range(40):
        average.update()
    with average.swapped():
        torch.testing.assert_close(net.weight.detach(), torch.ones(2, 2), atol=1e-4, rtol=0)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_parts():
    task = distil(Declared(), Declared(6), {"ce": 1.0, "kd": 1.0}, images=make_batch().images)
    with torch.no_grad():
        task.student.fc.weight.fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match=r"nan at batch 1 \(ce nan, kd nan\)"):
        run(task, Hyperparameters(epochs=1, learning_rate=0.1))


def test_the_first_part_that_is_not_finite_is_named():
    images = make_batch().images
    task = distil(Declared(), Declared(6), {"ce": 1.0, "kd": 1.0}, images=images)
    calls = iter(range(100))
    task.losses["kd"].register_forward_hook(
        lambda *called: called[2] * (math.inf if next(calls) == 1 else 1.0)
    )
    with pytest.raises(NonFiniteLossError, match=r"inf at batch 2 \(ce \d.*, kd inf\)"):
        run(task, Hyperparameters(epochs=1, learning_rate=0.1))


def test_parameters_can_go_without_weight_decay():
    class Scaled(nn.Module):
        no_weight_decay = ("scale",)

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.layer = nn.Linear(2, 2)
            self.frozen = nn.Linear(2, 2).requires_grad_(False)

    module = nn.ModuleDict({"a": Scaled()})
    with_decay, without = parameter_groups(module, 0.1)
    assert without["params"] == [module["a"].scale]
    assert without["weight_decay"] == 0
    assert with_decay["params"] == list(module["a"].layer.parameters())


def test_bf16_trains():
    task = supervised()
    rows, _ = run(task, Hyperparameters(epochs=2, learning_rate=0.05, precision="bf16"))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] + 0.5
    assert next(task.parameters()).dtype == torch.float32


def test_a_first_stage_comes_before_epoch_one_and_is_resumed():
    name = "tests.distillation.test_distillation:TwoStages"

    def task(seed):
        torch.manual_seed(seed)
        images = make_batch().images
        return distil(Declared(), Declared(6), {"ce": 1.0, name: 1.0}, images=images)

    hparams = Hyperparameters(epochs=2, learning_rate=0.1)
    whole = task(0)
    rows, _ = run(whole, hparams)
    assert [row["epoch"] for row in rows] == [-1, 0, 1, 2]
    assert ["train_twostages" in row for row in rows] == [True, True, False, False]
    for stop in (0, 1):
        copies, twin = [], task(0)

        def keep(row, state, deployed, copies=copies):
            buffer = io.BytesIO()
            torch.save(vars(state), buffer)
            copies.append(buffer)

        run(twin, hparams, on_epoch_end=keep)
        copies[stop].seek(0)
        again, state = task(1), load_state(copies[stop])
        again.teacher.load_state_dict(whole.teacher.state_dict())
        run(again, hparams, resumed=state)
        assert torch.equal(weights(again), weights(whole))


@pytest.mark.slow
def test_a_compiled_step_is_compiled_once():
    from torch._dynamo.testing import CompileCounter

    images = make_batch().images
    task = distil(Declared(), Declared(6), {"ce": 1.0, "kd": 1.0}, images=images)
    trainer = Trainer(task, Hyperparameters(epochs=2, learning_rate=0.1))
    counter = CompileCounter()
    trainer.runner._run = torch.compile(task, backend=counter, fullgraph=True)
    for epoch in (0, 1):
        trainer.train_epoch(Batches(), TrainProgress(epoch))
    assert counter.frame_count == 1
    assert counter.op_count > 10


def test_a_task_that_reads_progress_sees_it_grow():
    name, seen = "tests.distillation.test_distillation:Everything", []
    task = distil(Declared(), Declared(6), {name: 1.0}, images=make_batch().images)
    task.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    run(task, Hyperparameters(epochs=2, learning_rate=1e-6))
    assert seen == pytest.approx([i / 8 for i in range(8)])


@pytest.mark.slow
@pytest.mark.parametrize("names", ["alone", "ce", "kd", "ce kd"])
def test_a_compiled_step_has_the_gradient_of_an_eager_one(names):
    """With the default backend, whose simplifications other backends do not have."""
    torch.manual_seed(0)
    batch, student = make_batch(), Declared(3)
    if names == "alone":
        task = Supervised(student, CE())
    else:
        weights = dict.fromkeys(names.split(), 1.0)
        task = distil(student, Declared(6), weights, images=batch.images)
    expected = torch.autograd.grad(task(batch).loss, list(student.parameters()))
    found = torch.autograd.grad(torch.compile(task)(batch, 0.0).loss, list(student.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
