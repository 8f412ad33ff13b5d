"""Training images decoded by NVIDIA DALI: the same parts of the same images as without it."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distillers.data.augment.boxes import Box
from distillers.data.datasets.listing import first_few
from distillers.data.loaders.decode import (
    DecodedBatch,
    ImageFiles,
    image_rng,
)
from distillers.data.loaders.jpeg import upright_size
from distillers.errors import InputError

PIPELINES = 2  # while one fetches what it decoded, the other decodes
AHEAD = 2 * PIPELINES  # batches that are being read or decoded before they are asked for


class _ForDali(NamedTuple):
    row: int
    content: np.ndarray
    box: Box
    is_mirrored: bool


class DaliBatches:
    """Decode the batches of an epoch, in order.

    DALI decodes ordinary JPEGs, whose size, and so whose crop, is known from the header. Files that
    decoders may treat differently (other formats, CMYK) or must reject (damaged files) are decoded
    by `ImageFiles` in threads, with the same result or error as without DALI.

    Args:
        images: what to decode; `augment` must be set.
        order: (epoch, row) of each image of each batch.
        batch_size: the largest number of images in a batch.
        device: where DALI decodes and leaves the pixels.
        num_threads: on the CPU, over all pipelines; at least one a pipeline.
    """

    def __init__(
        self,
        images: ImageFiles,
        order: Iterable[list[tuple[int, int]]],
        batch_size: int,
        device: torch.device,
        num_threads: int,
    ) -> None:
        self._images, self._order = images, order
        self._batch_size, self._device = batch_size, device
        self._threads = max(1, -(-num_threads // PIPELINES))
        self._own = threading.local()  # each thread of `_decoders` has a pipeline
        self._readers = ThreadPoolExecutor(max(1, num_threads))
        self._decoders = ThreadPoolExecutor(PIPELINES)

    def __iter__(self) -> Iterator[DecodedBatch]:
        """Yield the batches in order."""
        ahead: deque[Future[DecodedBatch]] = deque()
        try:
            for wanted in self._order:
                read = [self._readers.submit(self._read, *each) for each in wanted]
                ahead.append(self._decoders.submit(self._decoded, wanted, read))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for batch in ahead:
                batch.cancel()

    def _read(self, epoch: int, row: int) -> _ForDali | DecodedBatch:
        """Return what DALI needs to decode an image, or the decoded image if DALI cannot."""
        images = self._images
        try:
            content = np.fromfile(images.path(row), dtype=np.uint8)
        except OSError:
            return images.__getitems__([(epoch, row)])  # raises the error
        size = upright_size(content.tobytes())
        if size is None:
            return images.__getitems__([(epoch, row)])
        rng = image_rng(images.seed, epoch, row)
        return _ForDali(row, content, *images.draw_crop(*size, rng))

    def _decoded(
        self, wanted: list[tuple[int, int]], read: list[Future[_ForDali | DecodedBatch]]
    ) -> DecodedBatch:
        found = [each.result() for each in read]
        mine = [each for each in found if isinstance(each, _ForDali)]
        try:
            pixels = iter(self._run(mine) if mine else ())
        except RuntimeError as error:
            return self._without_dali(wanted, error)
        images, index, bad, notes = [], [], [], []
        for each in found:
            if isinstance(each, _ForDali):
                images.append(next(pixels))
                index.append(each.row)
            else:
                images += each.images.to(self._device)
                index += each.index.tolist()
                bad += each.bad
                notes += each.notes
        stacked = torch.stack(images) if images else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
        numbers = torch.tensor(index, dtype=torch.int64)
        labels = self._images.labels[self._images.rows[numbers]]
        return DecodedBatch(stacked, labels, numbers, bad, notes)

    def _run(self, batch: list[_ForDali]) -> Tensor:
        """Return the decoded and cropped images, (n, 3, s, s) uint8."""
        if getattr(self._own, "pipeline", None) is None:
            self._own.pipeline = pipeline(
                self._images.size, self._batch_size, self._device, self._threads
            )
        running = self._own.pipeline
        boxes = np.array([each.box for each in batch], dtype=np.int32)
        running.feed_input("files", [each.content for each in batch])
        running.feed_input("start", boxes[:, :2].copy())
        running.feed_input("shape", boxes[:, 2:].copy())
        running.feed_input("mirrored", np.array([e.is_mirrored for e in batch], dtype=np.int32))
        found = running.run()[0].as_tensor()
        pixels = torch.empty(found.shape(), dtype=torch.uint8, device=self._device)
        on_gpu = self._device.type == "cuda"
        stream = torch.cuda.current_stream(self._device) if on_gpu else None
        plugin: Any = import_module("nvidia.dali.plugin.pytorch")
        return plugin.feed_ndarray(found, pixels, cuda_stream=stream)

    def _without_dali(self, wanted: list[tuple[int, int]], error: RuntimeError) -> DecodedBatch:
        """Decode a batch that DALI failed on, if one of its images cannot be read at all."""
        self._own.pipeline = None  # which cannot be used again
        decoded = self._images.__getitems__(wanted)
        if decoded.bad:
            return decoded
        paths = [self._images.path(row) for _, row in wanted]
        raise InputError(
            f"DALI fails on one of {first_few(paths)}, all of which can be read without it; leave "
            f"--dali out. Error: {error}"
        ) from error


def pipeline(size: int, batch_size: int, device: torch.device, num_threads: int) -> Any:
    """Build a DALI pipeline that decodes, crops, resizes and flips at most `batch_size` images.

    The output is (3, size, size) uint8.
    """
    dali: Any = import_module("nvidia.dali")  # an extra, which the type check must not need
    fn, types = dali.fn, dali.types
    on_gpu = device.type == "cuda"
    made = dali.Pipeline(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=(device.index or 0) if on_gpu else None,
        prefetch_queue_depth=1,
    )
    with made:
        files = fn.external_source(name="files", ndim=1, dtype=types.UINT8)
        start = fn.external_source(name="start", ndim=1, dtype=types.INT32)
        shape = fn.external_source(name="shape", ndim=1, dtype=types.INT32)
        mirrored = fn.external_source(name="mirrored", ndim=0, dtype=types.INT32)
        images = fn.decoders.image_slice(
            files,
            device="mixed" if on_gpu else "cpu",
            start=start,
            shape=shape,
            axes=(0, 1),
            output_type=types.RGB,
            adjust_orientation=True,  # and `start` and `shape` are those of the upright image
            jpeg_fancy_upsampling=True,  # as on the CPU
        )
        images = fn.resize(
            images, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=True
        )
        made.set_outputs(
            fn.crop_mirror_normalize(
                images,
                mirror=mirrored,
                mean=[0.0],
                std=[1.0],
                dtype=types.UINT8,
                output_layout="CHW",
            )
        )
    made.build()
    return made
