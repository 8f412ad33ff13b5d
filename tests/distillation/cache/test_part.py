import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillers.distillation.cache.part import Part, to_half
from distillers.errors import InputError

CPU = torch.device("cpu")
SHAPE = (3, 2, 4)
ROWS = 40


def part(folder, shape=SHAPE, rows=ROWS, **options):
    return Part(folder, "some", shape, rows, **options)


def random(count, shape=SHAPE, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def numbers(*rows):
    return np.array(rows, dtype=np.int64)


@pytest.mark.parametrize("shape", [(7,), (1,), SHAPE])
def test_what_is_written_is_read_in_half_precision(tmp_path, shape):
    one, values = part(tmp_path, shape), random(5, shape)
    rows = numbers(30, 2, 17, 0, 39)
    assert not one.present(rows).any()
    one.write(rows, values)
    for reader in (one, part(tmp_path, shape), part(tmp_path, shape, read_only=True)):
        assert reader.present(numbers(*rows, 1)).tolist() == [True] * 5 + [False]
        assert torch.equal(reader.read(rows, CPU), values.half().float())
        assert torch.equal(reader.read(rows[::-1].copy(), CPU), values.flip(0).half().float())
    assert one.num_filled() == 5


def test_maps_come_in_channels_last_order(tmp_path):
    one = part(tmp_path)
    one.write(numbers(0, 1), random(2).to(memory_format=torch.channels_last))
    read = one.read(numbers(1, 0), CPU)
    assert read.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(read, random(2).flip(0).half().float())


@given(
    st.floats(-110, 127),
    st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4),
)
def test_any_size_of_numbers_keeps_its_digits(power, values):
    """Within 2^-11 of each number, or 2^-24 of the row's largest: half precision's own limits."""
    exact = torch.tensor([values], dtype=torch.float32) * 2.0**power
    half, exponent = to_half(exact)
    back = torch.ldexp(half.float(), torch.from_numpy(exponent)[:, None])
    assert half.isfinite().all()
    floor = max(2.0**-24 * float(exact.abs().max()), 2.0**-130)
    if exponent[0] == 0:
        floor = max(floor, 2.0**-25)
    assert ((back - exact).abs() <= exact.abs() * 2.0**-11 + floor).all()


def test_ordinary_numbers_are_not_scaled():
    half, exponent = to_half(torch.tensor([[32000.0, 1e-3], [0.01, -0.004], [0.0, 0.0]]))
    assert exponent.tolist() == [0, 0, 0]
    assert half.dtype == torch.float16


def test_numbers_that_half_precision_cannot_hold(tmp_path):
    one = part(tmp_path, (3,))
    values = torch.tensor([[1e30, -7e29, 0.0], [1e-20, 3e-21, 0.0], [70000.0, 1.0, -65520.0]])
    one.write(numbers(3, 4, 5), values)
    read = part(tmp_path, (3,))
    assert read.present(numbers(3, 4, 5)).all()
    torch.testing.assert_close(read.read(numbers(3, 4, 5), CPU), values, rtol=2**-11, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_finite_number_is_refused(tmp_path, bad):
    one, values = part(tmp_path), random(3)
    values[1, 0, 0, 0] = bad
    with pytest.raises(InputError, match="not finite for 1 of 3 images"):
        one.write(numbers(0, 1, 2), values)
    assert not one.present(numbers(0, 1, 2)).any()


def test_the_first_that_writes_wins(tmp_path):
    one, other = part(tmp_path), part(tmp_path)
    assert not other.present(numbers(1, 2, 3)).any()
    one.write(numbers(1, 2), random(2))
    other.write(numbers(2, 3), random(2, seed=1))
    for reader in (one, other):
        assert reader.present(numbers(1, 2, 3)).all()
        assert torch.equal(reader.read(numbers(1, 2), CPU), random(2).half().float())
        assert torch.equal(reader.read(numbers(3), CPU), random(2, seed=1)[1:].half().float())


def test_a_row_that_is_named_twice_is_written_once(tmp_path):
    one = part(tmp_path)
    one.write(numbers(4, 4, 1), random(3))
    assert torch.equal(one.read(numbers(4, 1), CPU), random(3)[[0, 2]].half().float())
    assert one.num_filled() == 2


@pytest.mark.parametrize("ending", ["f16", "rows"])
def test_every_flipped_bit_is_found(tmp_path, ending):
    one, rows = part(tmp_path, (2,), 6), numbers(0, 3, 5)
    one.write(rows, random(3, (2,)))
    file = tmp_path / f"some.{ending}"
    whole = file.read_bytes()
    width = len(whole) // 6
    for place in (row * width + byte for row in rows for byte in range(width)):
        for bit in (0, 7):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            file.write_bytes(flipped)
            checked = part(tmp_path, (2,), 6, read_only=True)
            assert checked.check()[1] == [place // width]
            assert checked.present(rows).sum() == 2
    file.write_bytes(whole)
    assert part(tmp_path, (2,), 6).check() == (3, [])


@pytest.mark.parametrize("ending", ["f16", "rows"])
def test_a_file_cut_short_loses_only_what_was_cut(tmp_path, ending):
    one, rows = part(tmp_path, (5,), 8), np.arange(8)
    one.write(rows, random(8, (5,)))
    file = tmp_path / f"some.{ending}"
    width = file.stat().st_size // 8
    os.truncate(file, 5 * width + width // 2 - 1)
    again = part(tmp_path, (5,), 8)
    assert again.present(rows).tolist() == [True] * 5 + [False] * 3
    again.write(rows, random(8, (5,), seed=1))
    assert again.present(rows).all()
    assert torch.equal(again.read(rows[:5], CPU), random(8, (5,))[:5].half().float())
    assert torch.equal(again.read(rows[5:], CPU), random(8, (5,), seed=1)[5:].half().float())
    assert part(tmp_path, (5,), 8).check() == (8, [])


def test_a_row_of_another_place_is_found(tmp_path):
    """A block that the disk put elsewhere has a right checksum of its own."""
    one = part(tmp_path, (2,), 4)
    one.write(numbers(0, 1), random(2, (2,)))
    for ending in ("f16", "rows"):
        file = tmp_path / f"some.{ending}"
        content = file.read_bytes()
        half = len(content) // 2
        file.write_bytes(content[half:] + content[:half])
    assert part(tmp_path, (2,), 4).check() == (2, [0, 1])


@pytest.mark.parametrize("torn", [False, True])
def test_a_writer_that_stops_anywhere_leaves_rows_whole_or_empty(tmp_path, monkeypatch, torn):
    """Stopped before its n-th write, or in the middle of it; then the writing goes on."""
    rows, values = np.arange(4), random(4)
    write, calls = os.pwrite, [0]

    def stopping(limit):
        def pwrite(file, data, offset):
            calls[0] += 1
            if calls[0] < limit:
                return write(file, data, offset)
            if torn and calls[0] == limit:
                write(file, data[: len(data) // 2], offset)
            raise KeyboardInterrupt

        return pwrite

    for limit in range(1, 9):
        folder = tmp_path / str(limit)
        folder.mkdir()
        calls[0] = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", stopping(limit))
            with pytest.raises(KeyboardInterrupt):
                part(folder).write(rows, values)
        there = part(folder).present(rows)
        records = max(0, limit - 5)  # four rows are written, then their four records
        assert there.sum() in (records, records + torn)  # half a record may be all that matters
        again = part(folder)
        again.write(rows, random(4, seed=1))
        assert again.present(rows).all()
        for row in rows:
            expected = (values if there[row] else random(4, seed=1))[row].half().float()
            assert torch.equal(again.read(numbers(row), CPU)[0], expected)
        assert again.check() == (4, [])


def test_emptied_rows_are_written_anew(tmp_path):
    one = part(tmp_path)
    one.write(numbers(1, 2), random(2))
    one.empty([2])
    assert one.present(numbers(1, 2)).tolist() == [True, False]
    assert one.check() == (1, [])
    one.write(numbers(2), random(1, seed=1))
    assert torch.equal(one.read(numbers(2), CPU), random(1, seed=1).half().float())
