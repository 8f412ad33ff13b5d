"""Every loss between a network of the zoo and one of any family, for one step."""

import io
import json
import re

import pytest
import torch
from torch import nn

from distillers import models
from distillers.data.batch import Batch
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.losses import SimKD, wiring

CLASSES, SIZE, BATCH = 10, 64, 8
OPTIONS = {"crd": {"negatives": 64}, "rrd": {"queue_size": 64}}

# Losses that refuse a pair with a VGG of four stages, and say why.
OTHER_CHANNELS = {"fsp", "kdsvd"}
NO_PREACTS = {"ab", "ofd", "reviewkd"}  # as a student, the last goes without
OTHER_STAGES = {"ab", "at", "nst", "ofd", "reviewkd", "vid"}
NO_HEAD = {"simkd", "srrl", "wkdl"}  # as teacher
CLASS_MAPS = {"sdd", "catkd"}
TOKENS = {"vitkd"}  # which no VGG has

NETWORKS = {
    "timm:resnet18": set(),
    "timm:mobilenetv3_small_050": CLASS_MAPS,
    "timm:tf_efficientnet_lite0": set(),
    "timm:vit_tiny_patch16_224": CLASS_MAPS,
    "timm:deit_tiny_distilled_patch16_224": NO_HEAD | CLASS_MAPS,
    "timm:swin_tiny_patch4_window7_224": set(),
    "timm:convnext_atto": CLASS_MAPS,
    "timm:densenet121": set(),
    "timm:regnety_002": set(),
    "timm:resmlp_12_224": set(),
    "timm:ghostnet_050": CLASS_MAPS,
    "timm:dla46x_c": set(),
    "torchvision:resnet18": set(),
    "torchvision:mobilenet_v2": set(),
    "torchvision:alexnet": OTHER_STAGES | CLASS_MAPS,
    "torchvision:densenet121": CLASS_MAPS,  # a function overwrites the map that is pooled
    "torchvision:squeezenet1_1": OTHER_STAGES | NO_HEAD | CLASS_MAPS,
    "torchvision:shufflenet_v2_x0_5": OTHER_STAGES,
    "torchvision:swin_t": set(),
    "torchvision:googlenet": NO_PREACTS,
}


def attempt(
    student: nn.Module, teacher: nn.Module, chosen: set[str]
) -> tuple[Distillation | None, dict[str, str]]:
    """A step of all losses that take the pair, and the reasons of those that do not."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    labels, index = torch.arange(BATCH) % CLASSES, torch.arange(BATCH)
    batch = Batch(images, labels, index, strong=images.flip(3))
    names, reasons = dict.fromkeys(sorted(chosen), 1.0), {}
    while names:
        try:
            task = distil(
                student,
                teacher,
                names,
                images=images,
                train_labels=torch.arange(40) % CLASSES,
                batch_size=BATCH,
                options={name: given for name, given in OPTIONS.items() if name in names},
            )
            for progress in (-1.0, 0.5):  # the first stage of those that have one, and the second
                step = task.train()(batch, progress)
                assert all(torch.isfinite(part) for part in step.parts.values()), step.parts
                task.zero_grad()
                step.loss.backward()
            return task, reasons
        except ValueError as error:
            name = re.match(r"\w*", str(error)).group().lower()
            if name not in names:
                raise
            reasons[name] = str(error)
            del names[name]
    return None, reasons


def attempt_all(student: nn.Module, teacher: nn.Module) -> tuple[Distillation, dict[str, str]]:
    """The same for all losses, of which one is refused beside others."""
    _, reasons = attempt(student, teacher, {"sdd"})
    task, others = attempt(student, teacher, set(wiring.losses()) - {"sdd"})
    assert task is not None
    return task, reasons | others


@pytest.mark.slow
@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_loss_takes_the_pair_or_says_why(name, role):
    torch.manual_seed(0)
    net = models.create(name, CLASSES, SIZE)
    partner = models.create("vgg8", CLASSES, SIZE)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    pair = (net, partner) if role == "student" else (partner, net)
    task, reasons = attempt_all(*pair)
    refused = OTHER_CHANNELS | TOKENS | NETWORKS[name]
    if role == "student":
        refused -= NO_HEAD | (set() if NETWORKS[name] >= OTHER_STAGES else {"reviewkd"})
    assert set(reasons) == refused, reasons
    grads = [p.grad for p in task.student.parameters() if p.grad is not None]
    assert grads
    assert all(torch.isfinite(grad).all() for grad in grads)
    if role == "teacher":
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        return
    check_deployed(task.deployed(), models.create(name, CLASSES, SIZE))


def check_deployed(deployed: nn.Module, twin: nn.Module) -> None:
    """What is deployed can be saved, loaded into a new network, and is the same then."""
    file = io.BytesIO()
    torch.save({"model": deployed.state_dict(), "card": json.dumps(deployed.card)}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = SimKD.rebuild(twin, json.loads(saved["card"]))
    again.load_state_dict(saved["model"])
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), deployed.eval()(images))


@pytest.mark.slow
def test_no_loss_refuses_a_pair_of_one_kind():
    torch.manual_seed(0)
    pair = [models.create("timm:resnet18", CLASSES, SIZE) for _ in range(2)]
    assert set(attempt_all(*pair)[1]) == TOKENS
