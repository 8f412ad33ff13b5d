"""The demo's exported networks."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from distillers.checkpoints.card import complete_card, create_card
from distillers.checkpoints.export import SUFFIXES, export
from distillers.checkpoints.load import Classifier, load
from distillers.checkpoints.onnx import NEEDED
from distillers.cli.demo import STUDENT, TEACHER, Result
from distillers.data import ImageSet
from distillers.models.profile import latencies_ms


@dataclass(frozen=True)
class ExportedPair:
    """The files of the teacher and of the best student.

    Attributes:
        teacher: file of the teacher.
        student: file of the best student.
        method: its method.
        latencies: median milliseconds of a forward of one image, by file, interleaved.
        runtime: what ran them.
    """

    teacher: Path
    student: Path
    method: str
    latencies: dict[Path, float]
    runtime: str


def export_pair(folder: Path, teacher: Result, student: Result, images: ImageSet) -> ExportedPair:
    """Export both networks as ONNX, or as safetensors without the extra `export`.

    Args:
        folder: an existing folder.
        teacher: result of the teacher.
        student: result of the student to export, whose network is that of the last seed.
        images: the digits.
    """
    form = "onnx" if all(find_spec(name) for name in NEEDED) else "safetensors"
    paths = {}
    sample = next(images.test_loader(torch.device("cpu")).epoch(1)).images
    for result, name in ((teacher, TEACHER), (student, STUDENT)):
        assert result.net is not None  # set by compare
        net = result.net.cpu().eval()
        card = create_card(name, images, channels_last=False)
        card["accuracy"] = result.accuracies[-1]
        if deployed := getattr(net, "card", None):
            card["deploy"] = deployed
        classifier = Classifier(net, card)
        path = folder / f"{'teacher' if result is teacher else 'student'}{SUFFIXES[form]}"
        export(classifier, complete_card(classifier, images), path, form, sample)
        paths[result.name] = path
    both = (paths[teacher.name], paths[student.name])
    latencies = latencies_ms({path: (load(path).net, images.image_size, 1) for path in both})
    runtime = "onnxruntime" if form == "onnx" else "PyTorch; with the extra `export`: ONNX"
    return ExportedPair(*both, student.name, latencies, runtime)
