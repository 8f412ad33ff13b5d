"""SimKD against a second derivation; the deployed network is the trained one."""

import copy
import io
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.losses import SimKD
from tests.nets import Declared, Small


def head(classes: int = 5) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(6, classes)


def trained(size: tuple[int, int] = (4, 4)) -> tuple[SimKD, nn.Module]:
    """Return a loss and a student after one step, with teacher maps of the given size."""
    torch.manual_seed(0)
    student, loss = Declared(), SimKD([4, 8], 6, head())
    optimizer = torch.optim.SGD([*student.parameters(), *loss.projector.parameters()], lr=0.1)
    loss(stages(student, torch.rand(4, 3, 8, 8)), torch.rand(4, 6, *size)).backward()
    optimizer.step()
    return loss.eval(), student.eval()


def stages(student: Small, images: Tensor) -> list[Tensor]:
    first = student.stage1(student.stem(images))
    return [first, student.stage2(first - 0.1)]


@pytest.mark.parametrize("size", [(4, 4), (2, 2), (3, 4), (8, 8), (5, 1)])
def test_value_is_the_distance_on_the_smaller_grid(size):
    torch.manual_seed(0)
    loss = SimKD([9, 4], 6, head(), factor=3).double().eval()
    student, teacher = torch.rand(2, 4, 4, 4).double(), torch.rand(2, 6, *size).double()
    smaller = tuple(min(4, side) for side in size)
    x = F.adaptive_avg_pool2d(student, smaller)
    for i, padding in ((0, 0), (3, 1), (6, 0)):
        x = F.conv2d(x, loss.projector[i].weight, padding=padding) / (1 + 1e-5) ** 0.5
        x = x.clamp(min=0)
    assert loss.projector[0].out_channels == 2
    expected = (x - F.adaptive_avg_pool2d(teacher, smaller)).square().mean()
    torch.testing.assert_close(loss([student * 0, student], teacher), expected)


@pytest.mark.parametrize("size", [(4, 4), (2, 2), (8, 8)])
def test_deploys_the_prediction_of_the_training(size):
    loss, student = trained(size)
    images = torch.rand(3, 3, 8, 8)
    maps = stages(student, images)[-1]
    if size == (2, 2):
        maps = F.avg_pool2d(maps, 2)
    expected = loss.teacher_head(loss.projector(maps).mean(dim=(2, 3)))
    torch.testing.assert_close(loss.deploy(student, student.taps).eval()(images), expected)


def test_deploying_does_not_change_the_student():
    loss, student = trained()
    images = torch.rand(3, 3, 8, 8)
    before, names = student(images), list(student.state_dict())
    deployed = loss.deploy(student.train(), student.taps)
    deployed.eval()
    assert student.training
    assert student.fc.in_features == 8
    assert list(student.state_dict()) == names
    assert not student.stage2._forward_hooks
    deployed(images)
    torch.testing.assert_close(student.eval()(images), before)


def test_what_trains_the_student_trains_the_deployed():
    loss, student = trained()
    deployed, images = loss.deploy(student, student.taps), torch.rand(3, 3, 8, 8)
    before = deployed(images)
    with torch.no_grad():
        student.stem.weight.mul_(2)
        student.stage2[1].running_mean.add_(1)
        loss.projector[0].weight.mul_(-1)
    assert not torch.allclose(deployed(images), before)
    torch.testing.assert_close(loss.deploy(student, student.taps)(images), deployed(images))


def test_the_students_classifier_is_not_there():
    loss, student = trained()
    deployed = loss.deploy(student, student.taps)
    names = dict(deployed.named_parameters())
    assert not any(name.startswith("backbone.fc") for name in names)
    count = sum(p.numel() for p in deployed.parameters())
    parts = (student, loss.projector, loss.teacher_head)
    own = sum(p.numel() for p in student.fc.parameters())
    assert count == sum(p.numel() for part in parts for p in part.parameters()) - own


@pytest.mark.parametrize("size", [(4, 4), (2, 2)])
def test_is_rebuilt_from_its_card_and_weights(size):
    loss, student = trained(size)
    deployed, images = loss.deploy(student, student.taps).eval(), torch.rand(3, 3, 8, 8)
    file = io.BytesIO()
    torch.save(deployed.state_dict(), file)
    file.seek(0)
    card = json.loads(json.dumps(deployed.card))
    torch.manual_seed(9)
    rebuilt = SimKD.rebuild(Declared(), card).eval()
    rebuilt.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(rebuilt(images), deployed(images))
    assert rebuilt.card == deployed.card


def test_deploys_at_the_given_taps_and_is_rebuilt_from_the_card_alone():
    loss, _ = trained()
    student = Small()
    deployed = loss.deploy(student, Taps(maps=("stage1", "stage2"), head="fc"))
    assert not hasattr(student, "taps")
    SimKD.rebuild(Small(), deployed.card).load_state_dict(deployed.state_dict())


def test_can_be_copied_and_the_copy_is_on_its_own():
    loss, student = trained()
    deployed, images = loss.deploy(student, student.taps).eval(), torch.rand(3, 3, 8, 8)
    twin, expected = copy.deepcopy(deployed), deployed(images)
    with torch.no_grad():
        student.stem.weight.mul_(2)
    assert torch.equal(twin(images), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_can_be_exported():
    loss, student = trained((2, 2))
    deployed, images = loss.deploy(student, student.taps).eval(), torch.rand(3, 3, 8, 8)
    program = torch.export.export(deployed, (images,))
    torch.testing.assert_close(program.module()(images), deployed(images))


def test_deploys_before_any_step():
    assert SimKD([4, 8], 6, head()).deploy(Declared(), Declared().taps).eval()(
        torch.rand(2, 3, 8, 8)
    ).shape == (
        2,
        5,
    )


def test_remembers_the_teachers_size_in_its_state():
    loss, student = trained((2, 2))
    resumed = SimKD([4, 8], 6, head())
    resumed.load_state_dict(loss.state_dict())
    assert resumed.deploy(student, student.taps).card["size"] == [2, 2]


def test_takes_a_classifier_of_one_linear_layer():
    loss = SimKD([4, 8], 6, nn.Sequential(nn.Dropout(), nn.Linear(6, 5, bias=False)))
    assert loss.deploy(Declared(), Declared().taps).card["bias"] is False
    with pytest.raises(ValueError, match="must be one linear layer; it is Linear, ReLU, Linear"):
        SimKD([4, 8], 6, nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5)))


def test_the_teachers_classifier_is_frozen_and_not_changed():
    own = head()
    before = own.weight.clone()
    loss, student = trained()
    assert not any(p.requires_grad for p in loss.teacher_head.parameters())
    assert torch.equal(loss.deploy(student, student.taps).head.weight, before)


def test_refuses_an_embedding_that_is_not_the_pooled_map():
    with pytest.raises(ValueError, match="has 7 channels and its classifier 6 inputs"):
        SimKD([4], 6, head())([torch.rand(2, 4, 4, 4)], torch.rand(2, 7, 4, 4))
    with pytest.raises(ValueError, match="factor is 0; it must be from 1 to 6"):
        SimKD([4], 6, head(), factor=0)
