"""Eleven methods, under both protocols, on 10,000 images of CIFAR-10: resnet20 to resnet8, 3 seeds.

    python benchmarks/study.py prepare   # data/cifar10_10k: the first 1,000 images of each class
    distillers sweep benchmarks/study.yml --dry_run
    distillers sweep benchmarks/study.yml   # goes on where it stopped
    python benchmarks/study.py collect   # benchmarks/results/study.json, and the table in Markdown

The second set of methods, with two seeds, has a grid of the same setting: the same commands with
`benchmarks/study_second.yml`, and `collect --grid benchmarks/study_second.yml`.

`collect` takes what is finished. Of each run it keeps the accuracy after the last epoch, as Tian et
al. 2020 report, and that of the best test epoch, as Chen et al. 2022 do. Last epochs are compared
with those of KD in the same protocol, and the order of the means with published ones.
"""

import argparse
import glob
import json
import pickle
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from distillers.data.datasets.cifar import cifar10
from distillers.distillation import recipes
from distillers.errors import EXIT_STATUS, InputError, NonFiniteLossError
from distillers.report import published
from distillers.report.estimates import SampleStats, welch

ROOT = Path(__file__).parents[1]
GRID = ROOT / "benchmarks" / "study.yml"
RESULTS = ROOT / "benchmarks" / "results"
FOLDER = "cifar-10-batches-py"
EACH_CLASS = 1000
BASELINE = {"crd": "KD (.1/.9)", "simkd": "KD (1/1)"}
# The published pairs nearest to this one that have most of the methods, by protocol.
NEAREST = {"crd": ("resnet56", "resnet20"), "simkd": ("resnet32x4", "resnet8x4")}
RULE = {"crd": "last", "simkd": "best"}
# The first seed of the same grid in fp32, of another teacher: what another repetition gives.
EARLIER = RESULTS / "study_fp32.json"
DEPARTING = {  # from their protocol, by their names in the published table
    "KD + LS": "kd (kd=9, kd.standardise=True, kd.temperature=2)",
    "RRD (.04/.10)": "rrd (rrd.preset=tables)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("prepare", "collect"))
    parser.add_argument("--data_dir", default="data", help="where CIFAR-10 lies, or is fetched to")
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--out", type=Path, help="default: named like the grid, in results/")
    args = parser.parse_args()
    grid = yaml.safe_load(args.grid.read_text())
    if args.what == "prepare":
        prepare(Path(args.data_dir), Path(grid["fixed"]["data_dir"]))
    else:
        collect(grid, args.out or RESULTS / f"{args.grid.stem}.json")


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
    lost = list(diverged(Path(grid["save_dir"])))
    rows: dict[str, dict[str, Any]] = {}
    for method in grid["methods"]:
        mine, ended = (of_trials(method, each, grid) for each in (runs, lost))
        if mine or ended:
            trials = [run["config"]["trial"] for run in ended]
            about: dict[str, Any] = {"protocol": method["protocol"], "diverged": trials}
            rows[method["name"]] = about | (summary(mine) if mine else {"trials": []})
    for row in rows.values():
        row["over KD"] = over(row, rows.get(BASELINE[row["protocol"]]))
    teacher = next(r for r in runs if r["config"].get("model") == "resnet20")
    content = {
        "what": "CIFAR-10, 10,000 training images (the first 1,000 of each class), all 10,000 test "
        "images; resnet20 to resnet8, 20 epochs, SGD 0.05, divided by 10 after 12, 15 and 18, "
        "batch 64, crop and flip",
        "grid": f"{out.stem}.yml",
        "environment": environment(teacher["folder"]),
        "teacher": summary([teacher]),
        "results": rows,
        "earlier": repetition(rows, json.loads(EARLIER.read_text())),
        "published": {protocol: order(grid, rows, protocol) for protocol in NEAREST},
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


def diverged(save_dir: Path) -> Iterator[dict[str, Any]]:
    """The flags of every run that a loss which is no number has ended."""
    for path in sorted((save_dir / "sweep" / "failed").glob("*")):
        if json.loads(path.read_text())["status"] == EXIT_STATUS[NonFiniteLossError]:
            folder = next(save_dir.glob(f"*/models/{glob.escape(path.name)}"))
            yield {"config": json.loads((folder / "config.json").read_text())}


def of_trials(
    method: Mapping[str, Any], runs: Sequence[dict[str, Any]], grid: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Those runs that are of an entry of the grid and of one of its seeds, in their order."""
    entry = {**method, "precision": grid["fixed"]["precision"]}
    mine = [run for run in runs if is_of(entry, run) and run["config"]["trial"] in grid["trials"]]
    trials = [run["config"]["trial"] for run in mine]
    if len(set(trials)) < len(trials):
        raise InputError(f"{method['name']} has trial {max(trials, key=trials.count)} twice.")
    return sorted(mine, key=lambda run: run["config"]["trial"])


def is_of(method: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether a run has every flag of an entry of the grid, and no option that it does not have."""
    config = run["config"]
    given = {key: value for key, value in method.items() if key not in ("name", "option")}
    if method["distill"] == "alone":
        given = {**given, "distill": None, "model": "resnet8"}
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
    stats = SampleStats(values)
    return {"values": values, "mean": stats.mean, "sd": stats.sd, "n": stats.n}


def over(row: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How far the last epoch is above another's, with Welch's interval of 95 %."""
    if baseline is None or baseline is row or not (row["trials"] and baseline["trials"]):
        return None
    mine, other = (SampleStats(r["last"]["values"]) for r in (row, baseline))
    return asdict(welch(mine, other))


def repetition(rows: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What another repetition gave after the last epoch, and the correlations of ranks."""
    theirs = {
        name: earlier["results"][name]["last"]["mean"]
        for name in rows
        if rows[name]["trials"] and earlier["results"].get(name, {}).get("trials")
    }
    groups = {"all rows": list(theirs)} | {
        f"{protocol} methods": [
            name for name in theirs if rows[name]["protocol"] == protocol and name != "alone"
        ]
        for protocol in NEAREST
    }
    rho = {
        group: spearman([rows[k]["last"]["mean"] for k in names], [theirs[k] for k in names])
        for group, names in groups.items()
        if len(names) > 2
    }
    return {"teacher": earlier["teacher"]["last"]["mean"], "last": theirs, "rho": rho}


def order(grid: Mapping[str, Any], rows: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """Our means beside those of the nearest published pair, and the correlation of their ranks."""
    teacher, student = NEAREST[protocol]
    table = published.by_run(published.read())
    both: dict[str, dict[str, Any]] = {}
    for method in grid["methods"]:
        name = published_name(method)
        key = ("cifar100", protocol, "" if name == "alone" else teacher, student, name)
        row = rows.get(method["name"], {"trials": []})
        if row["trials"] and method["protocol"] == protocol and key in table:
            entry = min(table[key], key=lambda each: each.rule != RULE[protocol])
            ours = row[RULE[protocol]]["mean"]
            both[method["name"]] = {
                "ours": ours,
                "theirs": entry.mean,
                "source": entry.source,
                "rule": entry.rule,
            }
    ours, theirs = ([each[k] for each in both.values()] for k in ("ours", "theirs"))
    rho = spearman(ours, theirs) if len(both) > 2 else None
    return {"pair": f"{teacher} -> {student}", "rule": RULE[protocol], "rho": rho, "methods": both}


def published_name(method: Mapping[str, Any]) -> str:
    """How the published table calls an entry of the grid; "" where it has other weights."""
    name = method["distill"]
    if method["name"] in DEPARTING or name == "alone":
        return DEPARTING.get(method["name"], name)
    row = recipes.recipe(method["protocol"], name)
    same = (row.ce, row.kd) == (method["cls"], method["div"]) and "option" not in method
    return name if same else ""


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The correlation of ranks; equal values share the mean of theirs."""
    return statistics.correlation(ranks(first), ranks(second))


def ranks(values: Sequence[float]) -> list[float]:
    values = [round(value, 9) for value in values]  # equal means, whatever their sums lost
    below = [sum(other < value for other in values) for value in values]
    equal = [sum(other == value for other in values) for value in values]
    return [b + (e + 1) / 2 for b, e in zip(below, equal, strict=True)]


def environment(folder: Path) -> dict[str, Any]:
    known = json.loads((folder / "environment.json").read_text())
    keep = ("python", "torch", "device", "cpu_threads", "revision")
    return {key: known[key] for key in keep} | {"machine": platform.machine()}


def table(content: Mapping[str, Any]) -> Iterator[str]:
    """The results as Markdown, the highest mean of the last epoch first."""
    yield "| | last epoch | best epoch | last epoch above KD (95 %) | n | fp32, another teacher |"
    yield "|---|---|---|---|---|---|"
    teacher, earlier = content["teacher"], content["earlier"]
    values = f"{shown(teacher['last'])} | {shown(teacher['best'])}"
    yield f"| teacher | {values} | | 1 | {earlier['teacher']:.2f} |"
    whole = {name: row for name, row in content["results"].items() if row["trials"]}
    for name, row in sorted(whole.items(), key=lambda item: -item[1]["last"]["mean"]):
        above = interval(row["over KD"])
        there = f"{earlier['last'][name]:.2f}" if name in earlier["last"] else ""
        values = (shown(row["last"]), shown(row["best"]), above, len(row["trials"]), there)
        yield f"| {name} | {' | '.join(map(str, values))} |"
    for name, row in content["results"].items():
        if row["diverged"]:
            yield f"| {name} | diverged | | | {len(row['diverged'])} | |"
    if earlier["rho"]:
        each = ", ".join(f"{group} {rho:.2f}" for group, rho in earlier["rho"].items())
        yield ""
        yield f"Rank correlation of the last column with the first: {each}."
    for protocol, found in content["published"].items():
        rho = "" if found["rho"] is None else f", rank correlation {found['rho']:.2f}"
        yield ""
        yield f"{protocol}, {found['rule']} epoch, published for {found['pair']}{rho}:"
        yield ""
        yield "| | here | published | its epoch |"
        yield "|---|---|---|---|"
        by_theirs = sorted(found["methods"].items(), key=lambda item: -item[1]["theirs"])
        for name, each in by_theirs:
            yield f"| {name} | {each['ours']:.2f} | {each['theirs']:.2f} | {each['rule']} |"


def interval(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    if difference["low"] is None:
        return f"{difference['value']:+.2f}"
    ends = f"{difference['low']:+.2f} to {difference['high']:+.2f}"
    return f"{difference['value']:+.2f} ({ends})"


def shown(values: Mapping[str, Any]) -> str:
    sd = "" if values["sd"] is None else f" ± {values['sd']:.2f}"
    return f"{values['mean']:.2f}{sd}"


if __name__ == "__main__":
    main()
