"""The end of `distillers compress`: exported finalists, their figures, the choice, and a page."""

import base64
import io
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from distillers.checkpoints.card import complete_card
from distillers.checkpoints.export import export
from distillers.checkpoints.load import Classifier, load
from distillers.checkpoints.onnx import OnnxNetwork
from distillers.data.source import DataSource
from distillers.errors import LimitExceededError
from distillers.files import file_name, write_atomically, write_json, write_text
from distillers.report.comparison import Comparison, compare
from distillers.report.html import page_environment
from distillers.sweep.candidates import Limits
from distillers.sweep.halving import FINALISTS, Plan, Trained
from distillers.training.predictions import Predictions, run_files

ALPHA = 0.05  # significance level of a difference between two finalists


@dataclass(frozen=True)
class Row:
    """A network in the table.

    Attributes:
        name: of the network.
        accuracy: in percent: of the exported file on the test images for the teacher and finalists,
            else of the last epochs on the images that choose.
        low: lower end of its 95 % interval (Wilson).
        high: upper end.
        images: what it was measured on, "test" or "held out".
        latency_ms: of one image in onnxruntime.
        file_bytes: of the ONNX file.
        macs: for one image.
        epochs: that it was trained.
        minutes: that its training took; None for the teacher.
    """

    name: str
    accuracy: float
    low: float
    high: float
    images: str
    latency_ms: float
    file_bytes: int
    macs: int
    epochs: int
    minutes: float | None


def finish(
    plan: Plan,
    trained: Sequence[Trained],
    teacher: Classifier,
    source: DataSource,
    out: Path,
    limits: Limits,
    max_drop: float | None,
) -> None:
    """Export the finalists, choose one, and write and print what was measured.

    Raises:
        LimitExceededError: if the chosen student loses more than `max_drop` points of accuracy.
    """
    finalists = [each for each in trained if each.rungs == trained[0].rungs][:FINALISTS]
    paths = {each.name: out / f"{file_name(each.name)}.onnx" for each in finalists}
    classifiers = {each.name: load(each.run) for each in finalists}
    files = {"teacher": out / "teacher.onnx", **paths}
    images = source.sample(torch.device("cpu"))
    for name, classifier in {"teacher": teacher, **classifiers}.items():
        export(classifier, complete_card(classifier, source), files[name], "onnx", images)
    seen, latency, busy = run_files(files, source)
    rows = [_final_row("teacher", teacher, files, seen, latency, None)]
    rows += [_final_row(t.name, classifiers[t.name], files, seen, latency, t) for t in finalists]
    rest = [each for each in trained if each not in finalists]
    rows += [_other_row(each, plan, source) for each in rest]
    chosen, why = choose(rows[1 : 1 + len(finalists)], seen, source)
    against = compare(seen["teacher"], seen[chosen.name], source.class_names)
    write_atomically(out / "student.onnx", paths[chosen.name].read_bytes())
    low, high = against.interval
    lines = [
        why,
        *_limit_notes(chosen, limits),
        f"Against the teacher the accuracy changes by {against.change:+.2f} points, 95 % interval "
        f"[{low:+.2f}, {high:+.2f}].",
    ]
    if busy:
        lines.append(f"While the latencies were measured, {busy}.")
    (run,) = (each.run for each in finalists if each.name == chosen.name)
    _write(out, rows, chosen, run, lines, against)
    _print(rows, chosen, lines)
    _print_next(run, out, str(plan.flags["data_dir"]))
    if max_drop is not None and -against.change > max_drop:
        raise LimitExceededError(
            f"{chosen.name} loses {-against.change:.2f} points of accuracy against the teacher, "
            f"--max_drop is {max_drop:g}; raise the other limits or the budget."
        )


def choose(
    finalists: Sequence[Row], seen: dict[str, Predictions], source: DataSource
) -> tuple[Row, str]:
    """Return the chosen finalist and why: the more accurate one, or the faster of two alike."""
    ranked = sorted(finalists, key=lambda row: (-row.accuracy, row.latency_ms))
    best = ranked[0]
    if len(ranked) == 1:
        return best, f"{best.name} is the only network that was trained to the end."
    other = ranked[1]
    found = compare(seen[other.name], seen[best.name], source.class_names)
    facts = f"{found.won} images against {found.lost}, McNemar's p = {found.p_value:.3g}"
    if found.p_value <= ALPHA:
        return best, f"{best.name} is more accurate than {other.name}: {facts}."
    fastest = min((best, other), key=lambda row: row.latency_ms)
    return fastest, (
        f"{best.name} and {other.name} do not differ significantly on {found.num_images} test "
        f"images ({facts}); {fastest.name} is the faster one. One training of each was compared; "
        "another seed may rank them otherwise."
    )


def wilson(accuracy: float, count: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of an accuracy in percent on `count` images."""
    found = binomtest(round(accuracy * count / 100), count).proportion_ci(method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def _final_row(
    name: str,
    classifier: Classifier,
    files: dict[str, Path],
    seen: dict[str, Predictions],
    latency: dict[str, float],
    trained: Trained | None,
) -> Row:
    accuracy = seen[name].accuracy()
    macs = int(OnnxNetwork(files[name]).card["macs"])
    size = files[name].stat().st_size
    epochs = trained.epochs if trained else 0
    minutes = trained.minutes if trained else None
    ends = wilson(accuracy, len(seen[name].labels()))
    title = name if trained else f"teacher {classifier.card['model']}"
    return Row(title, accuracy, *ends, "test", latency[name], size, macs, epochs, minutes)


def _other_row(trained: Trained, plan: Plan, source: DataSource) -> Row:
    """Return the row of a network that was left behind, with the accuracy that it was chosen by."""
    (costs,) = (each for each in plan.measured if each.name == trained.name)
    held_out = source.split(plan.flags["val_fraction"], plan.flags["trial"])[1]
    scored = source if held_out is None else held_out
    return Row(
        trained.name,
        trained.accuracy,
        *wilson(trained.accuracy, len(scored.test_labels)),
        "test" if held_out is None else "held out",
        costs.latency_ms,
        costs.file_bytes,
        costs.macs,
        trained.epochs,
        trained.minutes,
    )


def _limit_notes(chosen: Row, limits: Limits) -> list[str]:
    """Return whether the exported file, measured again, is within the limits."""
    figures = (
        (chosen.latency_ms, limits.latency_ms, "ms"),
        (chosen.file_bytes / 1e6, limits.mb, "MB"),
        (chosen.macs / 1e6, limits.macs, "million MACs"),
    )
    lines = []
    for value, limit, unit in figures:
        if limit is not None:
            verb = "is within" if value <= limit else "EXCEEDS"
            lines.append(f"measured again, {value:.3g} {unit} {verb} the limit of {limit:g}.")
    return lines


def _write(
    out: Path,
    rows: Sequence[Row],
    chosen: Row,
    run: Path,
    lines: Sequence[str],
    against: Comparison,
) -> None:
    """Write compress.json and the page."""
    content: dict[str, Any] = {
        "chosen": chosen.name,
        "run": str(run),
        "why": list(lines),
        "networks": [asdict(row) for row in rows],
        "against_teacher": against.as_json(),
    }
    write_json(out / "compress.json", content)
    page = (
        page_environment()
        .get_template("compress.html")
        .render(rows=rows, chosen=chosen, lines=lines, figure=_figure(rows, chosen))
    )
    write_text(out / "index.html", page)


def _figure(rows: Sequence[Row], chosen: Row) -> str:
    """Draw accuracy against latency, with intervals, and return the PNG in base 64."""
    from distillers.figures.paper import BLACK, BLUE, VERMILION, make_panels, paper_style

    with paper_style():
        figure, (axes,) = make_panels(1, panel_height=2.6)
        figure.set_size_inches(5, 2.8)
        for row in rows:
            tint = VERMILION if row is chosen else BLACK if row.minutes is None else BLUE
            errors = [[row.accuracy - row.low], [row.high - row.accuracy]]
            axes.errorbar(row.latency_ms, row.accuracy, errors, fmt="o", color=tint, ms=3, lw=0.8)
            place = (row.latency_ms, row.accuracy)
            axes.annotate(row.name, place, (4, 2), textcoords="offset points", fontsize=5)
        axes.set_xscale("log")
        axes.set_xlabel("latency of one image in onnxruntime, ms")
        axes.set_ylabel("accuracy, %")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode()


def _print(rows: Sequence[Row], chosen: Row, lines: Sequence[str]) -> None:
    width = max(len(row.name) for row in rows) + 2
    head = f"{'accuracy % [95 %]':>24}{'':>10}{'ms':>9}{'MB':>8}{'epochs':>8}{'min':>7}"
    print(f"\n{'':<{width}}{head}")
    for row in rows:
        accuracy = f"{row.accuracy:.2f} [{row.low:.2f}, {row.high:.2f}]"
        minutes = f"{row.minutes:.1f}" if row.minutes is not None else ""
        mark = "  <- chosen" if row is chosen else ""
        print(
            f"{row.name:<{width}}{accuracy:>24}{row.images:>10}{row.latency_ms:>9.2f}"
            f"{row.file_bytes / 1e6:>8.2f}{row.epochs:>8}{minutes:>7}{mark}"
        )
    print("\n" + "\n".join(lines))


def _print_next(run: Path, out: Path, data_dir: str) -> None:
    """Print what was saved, and commands that continue with it."""
    words = f" --data_dir {shlex.quote(data_dir)}"
    files = [shlex.quote(str(out / name)) for name in ("teacher.onnx", "student.onnx")]
    small = shlex.quote(str(out / "student.int8.onnx"))
    print(f"\nsaved {out}/student.onnx, compress.json, index.html")
    print(f"next: distillers compare {' '.join(files)}{words} --max_drop 1")
    print(
        f"      distillers export {shlex.quote(str(run))} --format onnx --int8 static --out {small}"
    )
