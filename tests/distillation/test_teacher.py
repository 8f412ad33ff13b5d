"""The copy that is read in the teacher's place gives what the teacher gives, or is not made."""

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from distillers import models
from distillers.distillation.build import distil
from distillers.distillation.teacher import FrozenTeacher
from distillers.features.extractor import FeatureExtractor
from distillers.features.infer import find_taps
from distillers.features.taps import KINDS, Taps
from distillers.features.trace import ForwardTrace
from distillers.models.fuse_bn import FusiblePair, find_pairs, fuse_weights
from tests.nets import Declared, make_batch

NORM = nn.modules.batchnorm._BatchNorm


def lived(net: nn.Module, size: int) -> nn.Module:
    """`net` in evaluation mode, its normalizations far from the identity they start as."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, NORM) and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        net.train()
        for _ in range(2):
            net(torch.randn(4, 3, size, size))
    return net.eval()


def read(net: nn.Module, taps: Taps, kinds, images: Tensor) -> dict:
    reader = FeatureExtractor(net, taps, kinds)
    with torch.no_grad():
        values = reader(images)
    reader.close()
    return values


def shown(taps: Taps) -> set[str]:
    return {kind for kind in KINDS if kind == "logits" or taps.places(kind)}


NETS = {  # how many normalizations cannot be folded: they follow no layer, or are read before
    "resnet20": 0,
    "wrn_16_2": 7,
    "vgg8": 0,
    "MobileNetV2": 0,
    "ShuffleV1": 0,
    "ShuffleV2": 0,
    "timm:mobilenetv3_small_050": 0,  # its normalizations activate
    "timm:test_efficientnet": 0,
}


@pytest.mark.parametrize("name", NETS)
def test_the_copy_is_the_teacher_wherever_it_is_read(name):
    net = lived(models.create(name, num_classes=7, image_size=32), 32)
    images = torch.randn(3, 3, 32, 32)
    taps = find_taps(net, images)
    kinds = shown(taps)
    before, state = copy.deepcopy(net), copy.deepcopy(net.state_dict())
    made = FrozenTeacher(net, taps, kinds, ForwardTrace(net, images))
    assert made.fused is not net
    assert sum(isinstance(m, NORM) for m in made.fused.modules()) == NETS[name]
    fresh = torch.randn(5, 3, 32, 32)
    expected, found = read(net, taps, kinds, fresh), made(fresh)
    assert set(found) == kinds
    for kind in kinds:
        one, two = (x[kind] if isinstance(x[kind], list) else [x[kind]] for x in (found, expected))
        for a, b in zip(one, two, strict=True):
            assert (a - b).abs().max() < 2e-5 * b.abs().max()
    # and nothing was done to the teacher
    assert repr(net) == repr(before)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.is_contiguous() for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_folding_is_the_formula():
    """Slowly, a channel at a time: gamma (w x + b - mean) / sqrt(var + eps) + beta."""
    conv, norm = nn.Conv2d(2, 3, 1).double(), nn.BatchNorm2d(3, eps=0.1).double().eval()
    norm.running_mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    norm.running_var.copy_(torch.tensor([0.3, 2.0, 1.0]))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 0.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.0, 3.0, 1.0]))
    weight, bias = fuse_weights(conv.requires_grad_(False), norm.requires_grad_(False))
    for c in range(3):
        scale = float(norm.weight[c]) / (float(norm.running_var[c]) + 0.1) ** 0.5
        shift = (float(conv.bias[c]) - float(norm.running_mean[c])) * scale + float(norm.bias[c])
        assert float(bias[c]) == pytest.approx(shift)
        for k in range(2):
            expected = float(conv.weight[c, k, 0, 0]) * scale
            assert float(weight[c, k, 0, 0]) == pytest.approx(expected)


class Net(nn.Module):
    """Convolution, normalization, classifier; what differs is what happens in between."""

    def __init__(self, conv: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 4, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.between(x).relu().mean((2, 3)))


class Twice(Net):
    def between(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x


class Written(Net):
    def between(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).mul_(2))


class Shared(Net):
    def between(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.norm(-self.conv(x))


class WeightToo(Net):
    def between(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.conv.weight.mean()


class OfTokens(Net):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(64))

    def between(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x.flatten(2).mT))
        return tokens.mT.unflatten(2, (8, 8))


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.weight.norm()


def hooked() -> nn.Module:
    net = Net()
    net.conv.register_forward_hook(plain_hook)
    return net


def plain_hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return output + 1


TRAPS = {
    "taken by another function": Twice,
    "written to in between": Written,
    "run twice": Shared,
    "weight used elsewhere": WeightToo,
    "another kind of convolution": lambda: Net(conv=Scaled(3, 4, 3, padding=1)),
    "another dimension normalized": OfTokens,
    "weight computed": lambda: Net(
        conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3, padding=1))
    ),
    "hook": hooked,
    "no running statistics": lambda: Net(norm=nn.BatchNorm2d(4, track_running_stats=False)),
    "another normalization": lambda: Net(norm=nn.GroupNorm(2, 4)),
    "half precision": lambda: Net().bfloat16(),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_would_change_the_result_is_not_folded(trap):
    net, images = TRAPS[trap]().eval(), torch.randn(2, 3, 8, 8)
    images = images.to(net.fc.weight.dtype)
    assert find_pairs(ForwardTrace(net, images), []) == []
    assert find_pairs(ForwardTrace(Net(), torch.randn(2, 3, 8, 8)), []) == [
        FusiblePair("conv", "norm")
    ]
    taps = Taps(maps=("norm",), head="fc")
    assert FrozenTeacher(net, taps, ["logits"], ForwardTrace(net, images)).fused is net


def test_a_convolution_that_is_read_is_not_folded():
    net, images = Net(), torch.randn(2, 3, 8, 8)
    for place in (("conv", "out"), ("norm", "in")):
        assert find_pairs(ForwardTrace(net, images), [place]) == []
    assert find_pairs(ForwardTrace(net, images), [("norm", "out"), ("conv", "in")]) == [
        FusiblePair("conv", "norm")
    ]


def test_a_copy_that_differs_is_not_read_and_that_is_said(monkeypatch, caplog):
    def wrong(layer, norm):
        weight, bias = fuse_weights(layer, norm)
        return weight, bias + 0.01

    net, images = lived(Net(), 8), torch.randn(2, 3, 8, 8)
    monkeypatch.setattr("distillers.models.fuse_bn.fuse_weights", wrong)
    with caplog.at_level(logging.WARNING):
        made = FrozenTeacher(
            net, Taps(maps=("norm",), head="fc"), ["logits"], ForwardTrace(net, images)
        )
    assert made.fused is net
    assert "Net has a different output" in caplog.text


def test_a_network_that_looks_at_its_normalisations_is_read_itself():
    class Looking(Net):
        def between(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) * self.norm.eps

    net, images = lived(Looking(), 8), torch.randn(2, 3, 8, 8)
    made = FrozenTeacher(
        net, Taps(maps=("norm",), head="fc"), ["logits"], ForwardTrace(net, images)
    )
    assert made.fused is net


def test_a_network_whose_hooks_hold_on_to_it_is_read_itself():
    class Remembering(Net):
        def __init__(self) -> None:
            super().__init__()
            self.seen = {}
            self.norm.register_forward_hook(lambda *args: self.seen.update(map=args[2]))

        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            return self.fc(self.seen.pop("map").mean((2, 3)))

    net, images = lived(Remembering(), 8), torch.randn(2, 3, 8, 8)
    made = FrozenTeacher(
        net, Taps(maps=("norm",), head="fc"), ["logits"], ForwardTrace(net, images)
    )
    assert made.fused is net
    torch.testing.assert_close(made(images)["logits"], net(images))


def task(**weights):
    torch.manual_seed(0)
    student, teacher = Declared(3), lived(Declared(6), 8)
    return distil(student, teacher, weights or {"ce": 1.0, "kd": 1.0}, images=make_batch().images)


def values(of) -> Tensor:
    return of.read_teacher(make_batch(seed=3).images.to(next(of.parameters()).dtype))[
        "teacher_logits"
    ]


def test_what_is_done_to_the_teacher_later_is_followed():
    one, other = task(), lived(Declared(6), 8)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    assert one.frozen.pairs
    before = values(one)
    one.teacher.load_state_dict(other.state_dict())
    torch.testing.assert_close(values(one), other(make_batch(seed=3).images))
    assert not torch.allclose(values(one), before)
    with torch.no_grad():
        one.teacher.fc.bias.add_(1)
        one.teacher.stage2[1].running_mean.add_(1)
    torch.testing.assert_close(values(one), one.teacher(make_batch(seed=3).images))
    # a compiled step cannot look; the loop's `train()` does
    one.teacher.fc.bias.sub_(2)
    one.train()
    torch.testing.assert_close(one.frozen.fused.fc.bias, one.teacher.fc.bias)


def test_the_copy_moves_along_and_keeps_its_digits():
    one = task()
    one.double()
    assert one.frozen.fused is not one.teacher
    expected = one.teacher(make_batch(seed=3).images.double())
    torch.testing.assert_close(values(one), expected, rtol=1e-12, atol=1e-12)
    one.to(memory_format=torch.contiguous_format)
    assert one.frozen.fused.stem.weight.is_contiguous()


def test_nothing_of_the_copy_is_part_of_the_task():
    one = task()
    inside = {id(p) for p in one.parameters()}
    assert not any(id(p) in inside for p in one.frozen.fused.parameters())
    assert not any(p.requires_grad for p in one.frozen.fused.parameters())
    one.train()
    assert not any(m.training for m in one.frozen.fused.modules())
    assert one.frozen.fused.fc.weight is not one.teacher.fc.weight


def test_no_copy_is_made_for_nothing():
    one = task(ce=1.0)  # the teacher does not run at all
    assert one.frozen.fused is one.teacher
