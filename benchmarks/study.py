"""Eleven methods, under both protocols, on 10,000 images of CIFAR-10: resnet20 to resnet8, 3 seeds.

    python benchmarks/study.py prepare   # data/cifar10_10k: the first 1,000 images of each class
    distillers sweep benchmarks/study.yml --dry_run
    distillers sweep benchmarks/study.yml   # goes on where it stopped
    python benchmarks/study.py collect   # benchmarks/results/study.json, and the table in Markdown

`collect` takes what is finished. Of each run it keeps the accuracy after the last epoch, as Tian et
al. 2020 report, and that of the best test epoch, as Chen et al. 2022 do.
"""

import argparse
import json
import pickle
import platform
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from distillers.data.cifar import cifar10

ROOT = Path(__file__).parents[1]
GRID = ROOT / "benchmarks" / "study.yml"
FOLDER = "cifar-10-batches-py"
EACH_CLASS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("prepare", "collect"))
    parser.add_argument("--data_dir", default="data", help="where CIFAR-10 lies, or is fetched to")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "study.json"))
    args = parser.parse_args()
    grid = yaml.safe_load(GRID.read_text())
    if args.what == "prepare":
        prepare(Path(args.data_dir), Path(grid["fixed"]["data_dir"]))
    else:
        collect(grid, Path(args.out))


def prepare(source: Path, target: Path) -> None:
    """Write a CIFAR-10 of its own, in the layout of the official one, all test images in it.

    Args:
        source: the folder with `cifar-10-batches-py`, or where that shall be downloaded to.
        target: the folder for the smaller one.
    """
    images = cifar10(source, download=True)
    labels = images.train_labels.numpy()
    rows = np.sort(np.concatenate([np.flatnonzero(labels == k)[:EACH_CLASS] for k in range(10)]))
    folder = target / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(rows, 5), start=1):
        pixels = images.train_images.numpy()[part].reshape(len(part), -1)
        content = {b"data": pixels, b"labels": labels[part].tolist()}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(content, protocol=2))
    for name in ("test_batch", "batches.meta"):
        (folder / name).write_bytes((source / FOLDER / name).read_bytes())
    print(f"{folder}: {len(rows)} training images, rows {rows[0]} to {rows[-1]} of 50,000")


def collect(grid: Mapping[str, Any], out: Path) -> None:
    """Write the results of the runs that are finished, and print the table."""
    runs = list(finished(Path(grid["save_dir"]), grid["fixed"]["epochs"]))
    rows = {}
    for method in grid["methods"]:
        mine = sorted((r for r in runs if is_of(method, r)), key=lambda r: r["config"]["trial"])
        mine = [run for run in mine if run["config"]["trial"] in grid["trials"]]
        if mine:
            rows[method["name"]] = summary(mine)
    teacher = next(r for r in runs if r["config"].get("model") == "resnet20")
    content = {
        "what": "CIFAR-10, 10,000 training images (the first 1,000 of each class), all 10,000 test "
        "images; resnet20 to resnet8, 20 epochs, SGD 0.05, divided by 10 after 12, 15 and 18, "
        "batch 64, crop and flip",
        "grid": GRID.name,
        "environment": environment(teacher["folder"]),
        "teacher": summary([teacher]),
        "results": rows,
    }
    out.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(table(content)))


def finished(save_dir: Path, epochs: int) -> Iterator[dict[str, Any]]:
    """The flags and figures of every run that reached its last epoch."""
    for path in sorted(save_dir.glob("*/models/*/parameters.json")):
        folder = path.parent
        if folder.is_symlink():
            continue
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        config = json.loads((folder / "config.json").read_text())
        if metrics[-1]["epoch"] == epochs:
            hours = json.loads(path.read_text())["Total time"]
            yield {"folder": folder, "config": config, "metrics": metrics, "hours": hours}


def is_of(method: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether a run has every flag of an entry of the grid, and no option that it does not have."""
    config = run["config"]
    if method["distill"] == "alone":
        return config.get("model") == "resnet8"
    given = {key: value for key, value in method.items() if key not in ("name", "option")}
    options = [each for group in config.get("option") or () for each in group]
    return options == method.get("option", []) and all(
        config.get(key) == value for key, value in given.items()
    )


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies after the last and after the best epoch, percent of the test images."""
    curves = [[row["test_acc"] for row in run["metrics"]] for run in runs]
    return {
        "trials": [run["config"]["trial"] for run in runs],
        "last": spread([curve[-1] for curve in curves]),
        "best": spread([max(curve) for curve in curves]),
        "hours": [run["hours"] for run in runs],
        "curves": curves,
    }


def spread(values: list[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"values": values, "mean": statistics.mean(values), "sd": sd}


def environment(folder: Path) -> dict[str, Any]:
    known = json.loads((folder / "environment.json").read_text())
    keep = ("python", "torch", "device", "cpu_threads", "revision")
    return {key: known[key] for key in keep} | {"machine": platform.machine()}


def table(content: Mapping[str, Any]) -> Iterator[str]:
    """The results as Markdown, the highest mean of the last epoch first."""
    yield "| | last epoch | best epoch | n |"
    yield "|---|---|---|---|"
    teacher = content["teacher"]
    yield f"| teacher | {shown(teacher['last'])} | {shown(teacher['best'])} | 1 |"
    rows = sorted(content["results"].items(), key=lambda item: -item[1]["last"]["mean"])
    for name, row in rows:
        yield f"| {name} | {shown(row['last'])} | {shown(row['best'])} | {len(row['trials'])} |"


def shown(values: Mapping[str, Any]) -> str:
    sd = "" if values["sd"] is None else f" ± {values['sd']:.2f}"
    return f"{values['mean']:.2f}{sd}"


if __name__ == "__main__":
    main()
