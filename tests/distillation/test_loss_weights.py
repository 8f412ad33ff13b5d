"""The default step and the compiled step give the numbers of the plain one."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from distillers import models
from distillers.data.batch import Batch
from distillers.distillation import recipes
from distillers.training import benchmark as bench
from distillers.training.benchmark import BenchmarkSetup
from distillers.training.trainer import Hyperparameters, Trainer

SETTING = BenchmarkSetup(
    student=partial(models.create, "resnet8", num_classes=10),
    teacher=partial(models.create, "resnet14", num_classes=10),
    image_size=16,
    num_classes=10,
    batch_size=8,
    num_images=200,
    options={"crd": {"negatives": 64}, "rrd": {"queue_size": 64}},
)


def setting(method: str) -> BenchmarkSetup:
    return replace(SETTING, options={k: v for k, v in SETTING.options.items() if k == method})


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    index = torch.randperm(200, generator=generator)[:8]
    return Batch(torch.randn(8, 3, 16, 16, generator=generator), index % 10, index)


def trainers(method: str) -> tuple[Trainer, Trainer]:
    """Of the same student and teacher, whose normalizations are no identities: plain, default."""
    hparams = Hyperparameters(1, learning_rate=1e-3)
    plain, default = (
        Trainer(bench.build_task(setting(method), method, unoptimized=given).train(), hparams)
        for given in (True, False)
    )
    with torch.no_grad():
        plain.task.teacher.train()(batch(0).images)
    default.task.teacher.load_state_dict(plain.task.teacher.eval().state_dict())
    default.task.train()  # takes the teacher's weights over, which a compiled step does not
    assert default.task.frozen.pairs
    assert not plain.task.frozen.pairs
    return plain, default


def loss(trainer: Trainer, number: int) -> float:
    torch.manual_seed(number)  # for losses that draw
    return trainer.backward(batch(number), 0.0).loss.item()


def gradient(trainer: Trainer) -> Tensor:
    found = [p.grad for p in trainer.task.parameters() if p.grad is not None]
    return torch.cat([each.flatten() for each in found])


@pytest.mark.parametrize("method", recipes.ELEVEN)
def test_the_default_step_is_the_plain_step(method):
    """At the same weights and memories, step after step."""
    plain, default = trainers(method)
    for number in range(3):
        default.task.load_state_dict(plain.task.state_dict())
        assert loss(default, number) == pytest.approx(loss(plain, number), rel=1e-5)
        expected, found = gradient(plain), gradient(default)
        assert len(found) == len(expected)
        assert (found - expected).norm() < 1e-4 * expected.norm()
        plain.optimizer_step()
        default.optimizer_step()


def test_fifty_default_steps_are_fifty_plain_steps():
    plain, default = trainers("kd")
    for number in range(50):
        assert loss(default, number) == pytest.approx(loss(plain, number), rel=1e-5)
        plain.optimizer_step()
        default.optimizer_step()


@pytest.mark.slow
@pytest.mark.parametrize("method", recipes.ELEVEN)
def test_the_whole_step_compiles_without_a_break(method):
    """Student, heads, losses and teacher in one graph, with the plain step's value."""
    torch.compiler.reset()
    plain, default = trainers(method)
    default.runner._run = torch.compile(default.task, fullgraph=True, backend="aot_eager")
    for number in range(3):
        default.task.load_state_dict(plain.task.state_dict())
        assert loss(default, number) == pytest.approx(loss(plain, number), rel=1e-4)
        plain.optimizer_step()
        default.optimizer_step()
