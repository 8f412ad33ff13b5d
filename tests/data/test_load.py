import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import distillers.data as data
from distillers.data import DecodeOptions
from distillers.data.source import evaluation_batch_size
from distillers.errors import InputError


def test_names_answers_without_torch():
    code = (
        "import sys, distillers.data as d; print(*d.names()); "
        "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [
        *("cifar10", "cifar100", "digits", "fashionmnist", "folder"),
        *("imagenet", "stl10", "tinyimagenet"),
    ]


def test_an_unknown_dataset_gets_a_suggestion():
    with pytest.raises(InputError, match="no dataset 'cifar', did you mean 'cifar10'"):
        data.load("cifar")


def test_a_data_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        data.load("digits", data_dir=tmp_path / "file")


def test_public_names_are_there_and_others_are_not():
    assert data.Loader.__name__ == "Loader"
    with pytest.raises(AttributeError, match="no attribute 'Loadr'"):
        data.Loadr  # noqa: B018


@pytest.mark.parametrize(("size", "batch_size"), [(32, 256), (96, 256), (160, 64), (224, 64)])
def test_an_evaluation_of_large_images_takes_no_more_memory_than_a_step(
    size: int, batch_size: int
) -> None:
    assert evaluation_batch_size(size) == batch_size
    images, labels = torch.zeros(1, 1, size, size, dtype=torch.uint8), torch.arange(300) % 10
    digits = replace(
        data.load("digits"),
        train_images=images,
        train_labels=labels[:1],
        test_images=images.expand(300, -1, -1, -1),
        test_labels=labels,
    )
    batch = next(digits.test_loader(torch.device("cpu")).epoch(1))
    assert len(batch.labels) == batch_size


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 0},
        {"image_size": 4097},
        {"num_workers": -1},
        {"on_bad_image": "ignore"},
        {"val_fraction": 1.0},
    ],
)
def test_options_of_decoding_are_checked(options):
    (name,) = options
    with pytest.raises(InputError, match=f"--{name} is {options[name]}; it must be"):
        DecodeOptions(**options)
