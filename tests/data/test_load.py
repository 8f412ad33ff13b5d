import subprocess
import sys

import pytest

import distillers.data as data
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
