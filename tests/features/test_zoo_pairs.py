"""The networks of the zoo as teachers and as students of the methods that ask most of a network."""

import pytest
import torch
from torch import nn

from distillers import models
from distillers.distillation.build import distil
from distillers.models.registry import SMALL_IMAGES
from tests.nets import make_batch

WEIGHTS = {"ce": 1.0, "kd": 1.0, "sp": 1.0, "srrl": 1.0, "rrd": 1.0, "dcd": 1.0, "simkd": 1.0}
FAMILIES = ("resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2")


def task_of(student, teacher, weights=WEIGHTS):
    torch.manual_seed(0)
    batch = make_batch(n=4, classes=10, size=32)
    nets = [models.create(name, num_classes=10) for name in (student, teacher)]
    settle(nets[1], batch.images)
    options = {"rrd": {"queue_size": 16}} if "rrd" in weights else None
    task = distil(*nets, weights, images=batch.images, options=options, batch_size=4)
    return task, batch


def settle(net, images):
    """Give a network the statistics of some images: without, 200 random layers overflow."""
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches, which is one
    with torch.no_grad():
        net.train()(images)
    for norm in norms:
        norm.momentum = 0.1


def step(student, teacher, weights=WEIGHTS):
    task, batch = task_of(student, teacher, weights)
    task.train()
    result = task(batch)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)
    logits = task.deployed().eval()(batch.images)
    assert logits.shape == (4, 10)
    return task, batch


@pytest.mark.parametrize("teacher", FAMILIES)
def test_simkd_ends_in_the_classifier_of_any_teacher(teacher):
    """A perfect projector makes the student a copy: its logits are the teacher's own."""
    task, batch = step("resnet8", teacher)
    task.eval()
    read = task.read_teacher(batch.images)
    final, logits = read["teacher_final"], read["teacher_logits"]
    deployed = task.deployed().eval()
    torch.testing.assert_close(deployed.head(final.mean((2, 3))), logits)


@pytest.mark.parametrize("student", FAMILIES[1:])
def test_every_family_is_a_student(student):
    step(student, "wrn_16_1")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_IMAGES)
def test_every_small_network_is_teacher_and_student(name):
    step(name, "resnet8")
    step("resnet8", name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", [("wrn_16_2", "wrn_40_2"), ("resnet8x4", "resnet32x4"), ("vgg8", "vgg13")]
)
def test_the_published_pairs_run_every_map_method(pair):
    weights = {"ce": 1.0, "fitnet": 1.0, "at": 1.0, "vid": 1.0, "nst": 1.0, "semckd": 1.0}
    step(*pair, weights)
