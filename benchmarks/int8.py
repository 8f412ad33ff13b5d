"""Accuracy, size and latency of int8 files, on 10,000 images of CIFAR-10.

    OMP_NUM_THREADS=1 python benchmarks/int8.py --data_dir data

For each network: a short training, its float ONNX file, its static int8 file (256 training images),
and the static int8 file of a further short training with `--qat`, taught by the float network. Both
trainings are the documented commands, in separate processes; `--resume` continues earlier runs. All
figures are of onnxruntime on the saved files and the 10,000 test images: accuracy in percent, how
often the file predicts the class that the float file predicts, and size and latency of one image
(interleaved) relative to the float file. They go to `benchmarks/results/int8.json`.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch

from distillers import data
from distillers.checkpoints.card import complete_card
from distillers.checkpoints.export import export
from distillers.checkpoints.for_dataset import for_dataset
from distillers.checkpoints.int8 import Quantizer, write_card
from distillers.checkpoints.load import Classifier, load
from distillers.checkpoints.onnx import OnnxNetwork
from distillers.files import file_name
from distillers.models.profile import forward_seconds
from distillers.training.int8_export import calibration_images
from distillers.training.predictions import agreement, collect

ROOT = Path(__file__).parents[1]
NETWORKS = ("resnet20", "timm:mobilenetv3_small_050")
SHARED = ["--dataset", "cifar10", "--protocol", "crd", "--trial", "0"]
SHARED += ["--num_workers", "0", "--save_freq", "0", "--resume"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--save_dir", default="save/int8")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--labels_per_class", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--qat_epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200, help="of the latency")
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/int8.json"))
    args = parser.parse_args()
    results = {}
    for network in args.networks:
        files = write_files(network, args)
        results[network] = measure(files, args.data_dir, args.rounds)
        for name, row in results[network].items():
            print(network, name, row, flush=True)
    epochs = {"float": args.epochs, "qat": args.qat_epochs}
    content = {
        "images": 10 * args.labels_per_class,
        "seeds": 1,
        "epochs": dict.fromkeys(args.networks, epochs),
        "environment": {
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "results": results,
    }
    Path(args.out).write_text(json.dumps(content, indent=2) + "\n")


def write_files(network: str, args: argparse.Namespace) -> dict[str, Path]:
    """Train a network without and with --qat, and return its files by name."""
    save_dir = Path(args.save_dir)
    shared = [*SHARED, "--data_dir", args.data_dir, "--save_dir", str(save_dir)]
    shared += ["--labels_per_class", str(args.labels_per_class)]
    rate = ["--epochs", str(args.epochs), "--learning_rate", "0.05", "--sched", "cosine"]
    full = train("teacher", [*shared, *rate, "--model", network])
    rate = ["--epochs", str(args.qat_epochs), "--learning_rate", "0.005", "--sched", "cosine"]
    taught = ["--path_t", full, "--model_s", network, "--distill", "kd"]
    qat = train("student", [*shared, *rate, *taught, "--qat", "--pretrained", full])
    source = data.source_of("cifar10", args.data_dir)
    return {
        **write(full, save_dir / f"{file_name(network)}.onnx", source, ("float", "static")),
        **write(qat, save_dir / f"{file_name(network)}-qat.onnx", source, ("", "qat")),
    }


def write(path: str, out: Path, source: data.DataSource, names: tuple[str, str]) -> dict[str, Path]:
    """Write the float and the int8 file of a run as `distillers export` does, and name both."""
    classifier = load(path)
    card = complete_card(classifier, source)
    images = calibration_images(source, card, 256)
    export(classifier, card, out, "onnx", images[:32])
    small = out.with_suffix(".int8.onnx")
    with TemporaryDirectory() as folder:
        Quantizer(out, images, Path(folder)).write(small)
    write_card(small, card)
    return {name: file for name, file in zip(names, (out, small), strict=True) if name}


def train(kind: str, flags: list[str]) -> str:
    """Train by the documented command, and return the path of the weights."""
    words = ["-m", "distillers", kind, *flags]
    print(" ".join(words), flush=True)
    words = [sys.executable, *words]
    printed = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(printed, flush=True)
    return next(line.split("saved ", 1)[1] for line in printed.splitlines() if "saved " in line)


def measure(files: dict[str, Path], data_dir: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each file; the first one is the reference."""
    device = torch.device("cpu")
    source = data.source_of("cifar10", data_dir)
    networks = {name: OnnxNetwork(path) for name, path in files.items()}
    nets = [
        for_dataset(Classifier(net, net.card), source, files[name], device)
        for name, net in networks.items()
    ]
    seen = collect(nets, source.test_loader(device).epoch(1))
    work = {name: (net, source.image_size, 1) for name, net in networks.items()}
    latency = {n: statistics.median(s) for n, s in forward_seconds(work, rounds).items()}
    reference = next(iter(files))
    return {
        name: {
            "accuracy": predicted.accuracy(),
            "agreement": agreement(seen[0], predicted),
            "size_ratio": files[name].stat().st_size / files[reference].stat().st_size,
            "latency_ratio": latency[name] / latency[reference],
            "latency_ms": 1000 * latency[name],
        }
        for name, predicted in zip(files, seen, strict=True)
    }


if __name__ == "__main__":
    main()
