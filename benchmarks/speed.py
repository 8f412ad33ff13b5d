"""Time the step of each method against the two networks that it runs.

    python benchmarks/speed.py                      # resnet32x4 -> resnet8x4, batch 64, 2 threads
    python benchmarks/speed.py --methods kd crd --rounds 9
    python benchmarks/speed.py --second --no-compile --out benchmarks/results/second.json

`--second` measures the second set of methods instead of the documented eleven; it leaves out ViTKD,
which needs tokens.

This is `distillers bench --compile`, which see for other flags. Each method is measured in rounds
that run everything in turn: the student's plain step (forward, cross-entropy, backward, SGD), the
teacher's plain forward, and the method's whole step in each variant. A ratio is the step divided by
student step + teacher forward of the same round. Writes `benchmarks/results/speed.json` and
`speed.png` beside it, and prints the table of docs/speed.md.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from distillers.cli import main as cli
from distillers.training.benchmark import STUDENT, TEACHER

# The second set, those first for which docs/methods.md states a limit of the cost.
SECOND = (
    *("catkd", "sdd", "srd", "vkd", "ickd", "queuekl", "mlkd", "crld", "rld", "ttm", "wttm"),
    *("normkd", "luminet", "ctkd", "skd", "wkdl", "wkdf", "mgd", "distplus", "ofa", "irg", "hkd"),
)
RESULTS = Path(__file__).parent / "results"


def main(words: list[str]) -> int:
    """Measure, and draw what was measured."""
    if "--second" in words:
        words = ["--methods", *SECOND, *(word for word in words if word != "--second")]
    out = Path(words[words.index("--out") + 1]) if "--out" in words else RESULTS / "speed.json"
    status = cli.run("bench", ["--compile", "--threads", "2", "--out", str(out), *words])
    if status == 0:
        content = json.loads(out.read_text())
        draw(content, out.with_suffix(".png"))
        print(table(content))
    return status


def table(content: dict, variants: Sequence[str] = (), across: bool = False) -> str:
    """Return the ratios as a table in Markdown, for docs/speed.md and README.

    Args:
        content: of the JSON file.
        variants: those that are shown; all if empty.
        across: whether methods are columns instead of rows.
    """
    rows = content["results"]["rows"]
    every = [name for name in next(iter(rows.values())) if name not in (STUDENT, TEACHER)]
    cells = [["", *(variants or every)]]
    for method, row in rows.items():
        cells.append([method, *(_ratio(row, name) for name in variants or every)])
    if across:
        cells = [list(column) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


def _ratio(row: dict, variant: str) -> str:
    """Return the ratio of a variant, "" for one that a method does not have."""
    return f"{row[variant]['ratio']:.2f}" if variant in row else ""


def draw(content: dict, path: Path) -> None:
    """Plot the ratios as bars, with whiskers from the lowest to the highest round."""
    rows = content["results"]["rows"]
    variants = [name for name in next(iter(rows.values())) if name not in (STUDENT, TEACHER)]
    figure, axes = plt.subplots(
        figsize=(7, 0.16 * len(rows) * len(variants) + 1), layout="constrained"
    )
    height = 0.8 / len(variants)
    for number, variant in enumerate(variants):
        each = [row[variant] for row in rows.values()]
        ratios = [row["ratio"] for row in each]
        below = [row["ratio"] - row["lowest"] for row in each]
        above = [row["highest"] - row["ratio"] for row in each]
        places = [place + (number - (len(variants) - 1) / 2) * height for place in range(len(rows))]
        axes.barh(places, ratios, height, xerr=(below, above), label=variant, error_kw={"lw": 0.6})
    axes.axvline(1, color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("step / (student step + teacher forward)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
