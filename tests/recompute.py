"""Recompute every number of a report from the raw files, independently of the library.

A row is identified by the folder name without trial and hash.
"""

import json
from pathlib import Path

import numpy as np
from scipy import stats


def rows(root):
    """Return the summary and the scores by rule of each run, by row and in the order of trials."""
    found = {}
    for path in sorted(Path(root).rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        config, summary = (
            json.loads((path.parent / f"{n}.json").read_text()) for n in ("config", "summary")
        )
        accuracies = [line["test_acc"] for line in lines]
        summary |= {"last": accuracies[-1], "best": max(accuracies), "curve": accuracies}
        summary["speed"] = float(np.median([line["images_per_second"] for line in lines]))
        name = path.parent.name.rsplit("_", 2)[0]
        found.setdefault(name, {})[config["trial"]] = summary
    return {name: [trials[t] for t in sorted(trials)] for name, trials in found.items()}


def figures(runs, rule):
    """Return mean and standard deviation (None for one run) of a key of some runs."""
    values = [run[rule] for run in runs]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def difference(runs, others, rule):
    """Return the difference of means and the ends of Welch's interval (None for single runs)."""
    a, b = ([run[rule] for run in each] for each in (runs, others))
    if min(len(a), len(b)) < 2:
        return float(np.mean(a) - np.mean(b)), None, None
    ends = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return float(np.mean(a) - np.mean(b)), float(ends.low), float(ends.high)


def rank(mean, means):
    return 1 + sum(other > mean for other in means)
