"""A process that decodes images and dies: the file, or the other reason, is said in one line."""

import os
import signal
import time
from dataclasses import dataclass

import pytest
import torch

from distillers import data
from distillers.data import DecodeOptions
from distillers.data.loaders.decode import ImageFiles
from distillers.data.loaders.folder import FolderLoader
from distillers.errors import InputError
from tests.data.trees import WNIDS, tree


@dataclass(frozen=True, eq=False)
class DeadlyFiles(ImageFiles):
    """Images one of which ends the process that decodes it."""

    deadly: int = -1
    how: int = signal.SIGSEGV

    def __getitems__(self, wanted):
        if any(row == self.deadly for _, row in wanted):
            os.kill(os.getpid(), self.how)
        return super().__getitems__(wanted)


def loader(root, deadly, how=signal.SIGSEGV, workers=2):
    source = data.source_of("folder", root, reading=DecodeOptions(image_size=32))
    images = DeadlyFiles(
        paths=source.train.paths,
        labels=source.train.labels,
        rows=source.train_rows,
        size=32,
        augment=True,
        seed=0,
        on_bad="error",
        deadly=deadly,
        how=how,
    )
    return FolderLoader(images, batch_size=3, mean=source.mean, std=source.std, num_workers=workers)


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
@pytest.mark.parametrize("deadly", [0, 10])
def test_the_file_that_ends_a_worker_is_named(tmp_path, deadly, how):
    root = tree(tmp_path / "photos")
    name = f"{WNIDS[deadly // 6]}_{deadly % 6}.JPEG"
    with pytest.raises(InputError, match=f"{name} ends the process that decodes it; delete"):
        list(loader(root, deadly, how).epoch(1))


def test_a_worker_that_was_killed_is_said(tmp_path):
    root = tree(tmp_path / "photos", train=40)
    made = loader(root, -1, workers=1)
    epoch = made.epoch(1)
    next(epoch)
    (worker,) = made._decoded._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(1)  # the signal of its death is no exception here
    with pytest.raises(InputError, match=r"was killed \(SIGKILL\), usually because memory ran out"):
        list(epoch)
    assert torch.is_grad_enabled()
