import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from distillers.checkpoints.input_adapter import InputAdapter, adapt_input
from distillers.distillation.build import distil
from distillers.errors import InputError
from distillers.features.extractor import FeatureExtractor
from distillers.features.infer import find_taps
from tests.nets import Declared, Small, make_batch

HERE = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.1)}
THERE = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def images_of(side, mean, std):
    """What an adapter reads of a data set."""
    return SimpleNamespace(image_size=side, mean=mean, std=std)


def normalized(raw, numbers):
    mean, std = (torch.tensor(numbers[name])[:, None, None] for name in ("mean", "std"))
    return (raw - mean) / std


def test_a_network_sees_the_normalisation_that_it_knows():
    net, raw = Small().eval(), torch.rand(2, 3, 8, 8)
    both = adapt_input(net, THERE, images_of(8, **HERE))
    assert isinstance(both, InputAdapter)
    torch.testing.assert_close(both(normalized(raw, HERE)), net(normalized(raw, THERE)))


def test_a_network_sees_the_size_that_it_knows():
    net, images = Small().eval(), torch.randn(2, 3, 16, 16)
    expected = net(F.interpolate(images, (8, 8), mode="bilinear", antialias=True))
    adapted = adapt_input(net, HERE | {"image_size": 8}, images_of(16, **HERE))
    assert torch.equal(adapted(images), expected)
    assert torch.equal(InputAdapter(net, [0], [1], [0], [1], None)(images), net(images))


def test_one_number_stands_for_every_channel():
    net, images = Small().eval(), torch.randn(2, 3, 8, 8)
    grey = {"mean": [0.5], "std": [0.25]}
    assert adapt_input(net, grey, images_of(8, (0.5,) * 3, (0.25,) * 3)) is net
    both = adapt_input(net, grey, images_of(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    torch.testing.assert_close(both(images), net((images - 0.5) / 0.25))


@pytest.mark.parametrize("card", [{}, {"mean": None}, HERE, HERE | {"image_size": 8}])
def test_a_network_that_knows_such_images_is_left_alone(card):
    net = Small()
    assert adapt_input(net, card, images_of(8, **HERE)) is net


def test_numbers_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="do not fit mean"):
        InputAdapter(Small(), [0.5, 0.5], [1.0, 1.0], [0.5] * 3, [1.0] * 3, None)
    with pytest.raises(InputError, match="std must be positive"):
        InputAdapter(Small(), [0.5], [1.0], [0.5], [0.0], None)


@pytest.mark.parametrize("build", [Small, Declared])
def test_it_is_read_as_the_network_in_it(build):
    torch.manual_seed(0)
    net, images = build().eval(), torch.randn(2, 3, 8, 8)
    both = InputAdapter(net, [0.5], [1.0], [0.0], [2.0], None)
    taps, own = find_taps(both, images), find_taps(net, images)
    assert taps == own.under("net")
    kinds = ("maps", "pooled", "final", "stem", "preacts", "logits")
    read = FeatureExtractor(both, taps, kinds)(images)
    expected = FeatureExtractor(net, own, kinds)(images * 0.5 + 0.25)
    torch.testing.assert_close(read, expected)


def test_an_adapted_teacher_teaches():
    torch.manual_seed(0)
    batch, teacher = make_batch(), Declared(6)
    both = InputAdapter(teacher, [0.5], [1.0], [0.0], [2.0], (8, 8))
    task = distil(Declared(3), both, {"kd": 1.0, "at": 1.0, "srrl": 1.0}, images=batch.images)
    before = copy.deepcopy(teacher.state_dict())
    task(batch).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
