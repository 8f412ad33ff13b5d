import pytest
import torch

from distillers.errors import InputError
from distillers.features.layout import PLAIN, Layout, guess


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 64, 16, 16), PLAIN),
        ((2, 16, 16, 16), PLAIN),  # either would do
        ((2, 512, 1, 1), PLAIN),
        ((2, 16, 16, 96), Layout(channels_last=True)),
        ((2, 1, 1, 96), Layout(channels_last=True)),
        ((2, 16, 192), Layout(grid=(4, 4))),
        ((2, 17, 192), Layout(grid=(4, 4), prefix=1)),
        ((2, 18, 192), Layout(grid=(4, 4), prefix=2)),
        ((2, 21, 192), Layout(grid=(4, 4), prefix=5)),
        ((2, 1, 192), None),
        ((2, 23, 192), None),
        ((2, 192), None),
        ((2, 3, 17, 64), None),
        ((2, 8, 100, 100), None),
    ],
)
def test_the_layout_follows_from_the_shape(shape, layout):
    assert guess(shape, (64, 64)) == layout


def test_what_the_network_tells_comes_first():
    assert guess((2, 9, 8), (64, 64)) == Layout(grid=(3, 3))
    assert guess((2, 9, 8), (64, 64), prefix=5) == Layout(grid=(2, 2), prefix=5)
    assert guess((2, 16, 16, 8), (64, 64), channels=8) == Layout(channels_last=True)
    assert guess((2, 16, 16, 16, 8), (64, 64)) is None
    assert guess((2, 17, 192), (64, 64), channels=64) is None


def test_images_need_not_be_square():
    assert guess((2, 1 + 3 * 5, 8), (48, 80)) == Layout(grid=(3, 5), prefix=1)
    assert guess((2, 7, 4, 9), (112, 64)) == Layout(channels_last=True)
    assert guess((2, 9, 7, 4), (112, 64)) == PLAIN
    assert guess((2, 3, 2, 2), (30, 17)) == PLAIN


def test_tokens_lie_row_by_row_after_those_of_no_place():
    maps = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)
    tokens = torch.cat([torch.full((2, 1, 3), -1), maps.flatten(2).mT], dim=1)
    assert torch.equal(Layout(grid=(2, 4), prefix=1).arrange(tokens), maps)
    assert torch.equal(Layout(channels_last=True).arrange(maps.permute(0, 2, 3, 1)), maps)
    assert PLAIN.arrange(maps) is maps


def test_another_number_of_tokens_is_refused():
    with pytest.raises(InputError, match="10 tokens where 1 and a grid of 2 x 4"):
        Layout(grid=(2, 4), prefix=1).arrange(torch.zeros(2, 10, 3))
