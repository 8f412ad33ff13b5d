"""What every network of the zoo must do besides agreeing with the published numbers."""

import copy
import math

import pytest
import torch
from torch import nn

from distillers import models
from distillers.models.resnet_cifar import ResNet
from distillers.models.shufflenetv2_cifar import HalvingBlock, KeepingBlock, ShuffleNetV2
from distillers.models.vgg_cifar import VGG
from distillers.models.wide_resnet_cifar import WideResNet

ONE_OF_EACH_KIND = [
    ("resnet8x4", 16),
    ("wrn_16_1", 16),
    ("vgg8", 32),
    ("vgg11", 64),
    ("MobileNetV2", 16),
    ("ShuffleV1", 16),
    ("ShuffleV2", 16),
    ("ResNet50", 8),
    ("ResNet10x2", 65),
    ("MobileNetV2_Imagenet", 65),
    ("ShuffleV2_Imagenet", 65),
]


@pytest.mark.parametrize(("name", "size"), ONE_OF_EACH_KIND)
def test_the_gradient_reaches_every_parameter(name, size):
    torch.manual_seed(0)
    net = models.create(name, 10, size)
    logits = net(torch.randn(4, 3, size, size))
    assert logits.shape == (4, 10)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    without = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_a_state_dict_goes_round(name):
    net, other = models.create(name, 5).eval(), models.create(name, 5).eval()
    assert not any("taps" in key for key in net.state_dict())
    other.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(images), other(images))
    twin = copy.deepcopy(net)
    assert twin.taps == net.taps
    assert torch.equal(twin(images), net(images))


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"]
)
def test_images_of_8_pixels_work(name):
    net = models.create(name, 10, 8).eval()
    assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResNet(21), "depth 21 is not 6 n"),
        (lambda: ResNet(20, 3), "widening 3 is none of"),
        (lambda: WideResNet(20), "depth 20 is not 6 n"),
        (lambda: VGG(12), "depth 12 is none of"),
        (lambda: ShuffleNetV2(0.5), "width 0.5 is none of"),
    ],
)
def test_a_shape_that_was_never_published_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_weights_start_as_published():
    torch.manual_seed(0)
    net = models.create("resnet8x4")
    weight = net.get_parameter("layer3.0.conv2.weight")
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)
    scale, shift = net.get_parameter("bn1.weight"), net.get_parameter("bn1.bias")
    assert scale.eq(1).all()
    assert shift.eq(0).all()
    vgg = models.create("vgg8")
    head = vgg.get_parameter("classifier.weight")
    assert head.std().item() == pytest.approx(0.01, rel=0.02)
    assert vgg.get_parameter("classifier.bias").eq(0).all()
    assert vgg.get_parameter("block2.0.bias").eq(0).all()


def test_shuffle_net_v2_activates_the_joined_map_with_the_same_result():
    torch.manual_seed(0)
    before = torch.randn(4, 8, 6, 6, dtype=torch.double, requires_grad=True)

    def gradient(out):
        return torch.autograd.grad((out * out.detach().cos()).sum(), before)[0]

    x = before.relu()  # what a block gets is always activated
    keeping = KeepingBlock(8).double()
    kept, used = x.chunk(2, dim=1)
    used = keeping.bn1(keeping.conv1(used)).relu()
    used = keeping.bn3(keeping.conv3(keeping.bn2(keeping.conv2(used)))).relu()
    expected = keeping.shuffle(torch.cat([kept, used], dim=1))
    torch.testing.assert_close(keeping(x), expected)
    torch.testing.assert_close(gradient(keeping(before.relu())), gradient(expected))

    x = before.relu()
    halving = HalvingBlock(8, 12).double()
    left = halving.bn2(halving.conv2(halving.bn1(halving.conv1(x)))).relu()
    right = halving.bn3(halving.conv3(x)).relu()
    right = halving.bn5(halving.conv5(halving.bn4(halving.conv4(right)))).relu()
    expected = halving.shuffle(torch.cat([left, right], dim=1))
    torch.testing.assert_close(halving(x), expected)
    torch.testing.assert_close(gradient(halving(before.relu())), gradient(expected))
