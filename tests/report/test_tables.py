"""Rows, differences, ranks, published results, and the CSV, Markdown and LaTeX files."""

import csv
import json
import re

import numpy as np
import pytest
from scipy import stats

from distillers.cli import main as cli
from distillers.config.run_files import dump_metrics, load_metrics
from distillers.report import report, writer
from distillers.report.estimates import SampleStats, welch
from distillers.report.formatting import format_count, format_signed, time_unit
from tests import recompute
from tests.run_folders import write, write_run

RANDOM = np.random.default_rng(0)


def test_mean_deviation_and_interval_agree_with_scipy():
    for sizes in ((2, 2), (3, 5), (10, 2), (7, 7)):
        for spread in (0.1, 1.0, 30.0):
            a, b = RANDOM.normal(70, 1, sizes[0]), RANDOM.normal(71, spread, sizes[1])
            first, second = SampleStats(a.tolist()), SampleStats(b.tolist())
            assert first.mean == pytest.approx(a.mean(), rel=1e-14)
            assert first.sd == pytest.approx(a.std(ddof=1), rel=1e-12)
            found = welch(first, second)
            ends = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
            assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
            assert found.value == pytest.approx(a.mean() - b.mean())


def test_the_interval_has_its_nominal_coverage():
    """For 2,000 pairs of samples of unequal size and variance."""
    covered = 0
    for _ in range(2000):
        a, b = RANDOM.normal(0, 1, 3), RANDOM.normal(0, 3, 6)
        found = welch(SampleStats(a.tolist()), SampleStats(b.tolist()))
        covered += found.low <= 0 <= found.high
    assert 0.93 < covered / 2000 < 0.97


def test_no_interval_without_a_spread():
    one, same = SampleStats([3.0]), SampleStats([5.0, 5.0])
    assert one.sd is None
    assert SampleStats([61.8, 61.8, 61.8]).sd == 0.0  # three times 61.8 is not 185.4
    assert (welch(one, same).low, welch(same, same).low) == (None, None)
    assert welch(one, same).value == -2.0
    assert welch(same, SampleStats([4.0, 5.0])).low is not None


def tables(root, baseline=None):
    return report.build_report([root], baseline).tables


def seeds(root, method, values, **kwargs):
    for trial, value in enumerate(values):
        write_run(root, method, trial=trial, accuracies=(value / 2, value), **kwargs)


def test_any_difference_makes_another_row_with_a_label_that_names_it(tmp_path):
    seeds(tmp_path, "kd", (60, 62))
    seeds(tmp_path, "at", (61, 64))
    seeds(tmp_path, None, (55, 56))  # the student alone
    seeds(tmp_path, None, (57, 58), batch_size=32)  # alone, but trained differently from every row
    write_run(tmp_path, None, model="resnet20")  # the teacher does not become a row of its pair
    write_run(tmp_path, "kd", batch_size=16, accuracies=(1, 1))
    write_run(tmp_path, "kd", protocol="simkd")
    write_run(tmp_path / "b", "kd", summary={"teacher_sha256": "cd" * 32}, accuracies=(2, 2))
    write_run(tmp_path, "kd", taps_s=("layer1", "layer2"), accuracies=(3, 3))
    made = tables(tmp_path)
    labels = {(t.protocol, t.pair): [row.label for row in t.rows] for t in made}
    assert labels == {
        ("crd", "resnet20 → resnet8"): [
            *("at", "kd", "alone", "kd (taps_s=layer1,layer2)", "kd [teacher=cdcdcdcd]"),
            "kd [batch_size=16]",
        ],
        ("simkd", "resnet20 → resnet8"): ["kd"],
        ("crd", "no teacher"): ["resnet20", "resnet8 [batch_size=32]", "resnet8"],
    }
    assert [len(row.runs) for row in made[0].rows] == [2, 2, 2, 1, 1, 1]
    assert made[0].baseline == "kd"


def set_rate(folder, rate):
    """Change the learning rate in the metrics of a run."""
    rows, _ = load_metrics(folder / "metrics.jsonl")
    (folder / "metrics.jsonl").write_bytes(dump_metrics([{**row, "lr": rate} for row in rows]))


def test_common_flags_are_not_in_labels(tmp_path):
    """Common over all pairs, so that a label means the same in each; rates are common by pair."""
    for method in ("kd", "at", "sp"):
        write_run(tmp_path, method, weight_decay=1e-3)
    slow = write_run(tmp_path, "kd", model_s="ShuffleV1", weight_decay=1e-3)
    set_rate(slow, 0.01)
    write_run(tmp_path, "kd", model_s="resnet14")
    write_run(tmp_path, "at", model_s="resnet14")
    labels = {t.student: sorted(row.label for row in t.rows) for t in tables(tmp_path)}
    other = "[weight_decay=0.0005]"
    assert labels == {
        "resnet8": ["at", "kd", "sp"],
        "resnet14": [f"at {other}", f"kd {other}"],
        "ShuffleV1": ["kd"],
    }
    assert {t.student: t.baseline for t in tables(tmp_path)}["resnet14"] == f"kd {other}"


def test_a_heading_holds_for_every_row_without_a_difference_in_its_label(tmp_path):
    """Even if most rows of one table are trained differently from most rows of all tables."""
    for student in ("resnet8", "resnet14"):
        for method in ("kd", "at", "sp"):
            write_run(tmp_path, method, model_s=student, accuracies=(50, 60, 70))
    write_run(tmp_path, "kd", model_s="resnet32", accuracies=(50, 60, 70))
    write_run(tmp_path, "at", model_s="resnet32", accuracies=(50, 60))
    write_run(tmp_path, "sp", model_s="resnet32", accuracies=(50, 60))
    for table in tables(tmp_path):
        assert table.flags["epochs"] == 3
        for row in table.rows:
            assert ("epochs=" in row.label) == (row.runs[0].train_flags["epochs"] != 3)


def test_runs_on_other_images_are_in_another_row(tmp_path):
    for trial in (0, 1):
        write_run(tmp_path, "kd", trial=trial)
    write_run(tmp_path, "kd", trial=2, summary={"data": "34" * 32})
    (table,) = tables(tmp_path)
    found = {row.label: [run.trial for run in row.runs] for row in table.rows}
    assert found == {"kd": [0, 1], "kd [data=34343434]": [2]}


def test_runs_without_digest_count_as_runs_on_the_only_known_images(tmp_path):
    for trial, method in ((0, "kd"), (0, None)):
        old = write_run(tmp_path, method, trial=trial)
        summary = json.loads((old / "summary.json").read_text())
        del summary["data"]
        write(old, "summary.json", summary)
    write_run(tmp_path, "kd", trial=1)
    (table,) = [t for t in tables(tmp_path) if t.teacher]
    assert {row.label: len(row.runs) for row in table.rows} == {"kd": 2, "alone": 1}
    write_run(tmp_path, "kd", trial=2, summary={"data": "34" * 32})
    (table,) = [t for t in tables(tmp_path) if t.teacher]
    assert "kd [data=unknown]" in table.by_label


def test_the_student_alone_is_a_row_beside_students_of_a_cached_teacher(tmp_path):
    write_run(tmp_path, "kd", teacher_cache="auto")
    write_run(tmp_path, "at", teacher_cache="auto")
    write_run(tmp_path, None)
    (table,) = [t for t in tables(tmp_path) if t.teacher]
    assert sorted(row.label for row in table.rows) == ["alone", "at", "kd"]
    assert table.by_label["at"].differences.keys() == {"last", "best"}


def test_means_that_differ_only_by_rounding_share_a_rank(tmp_path):
    first, second = (70.94, 70.47, 70.11), (70.15, 70.95, 70.42)
    for method, values in (("at", first), ("sp", second)):
        for trial, value in enumerate(values):
            write_run(tmp_path, method, trial=trial, accuracies=(50, value))
    (table,) = tables(tmp_path)
    assert table.rows[0].scores["last"].mean != table.rows[1].scores["last"].mean
    assert [row.ranks["last"] for row in table.rows] == [1, 1]


def test_a_row_has_the_formula_of_its_loss(tmp_path):
    settings = {"ce": 1.0, "my.code:Loss": 0.5, "ce.label_smoothing": 0.1, "loss.power": 2}
    write_run(tmp_path, "kd", settings=settings)
    assert tables(tmp_path)[0].rows[0].formula == "1 ce + 0.5 my.code:Loss"


def test_networks_alone_may_have_several_rates(tmp_path):
    write_run(tmp_path, None, model="resnet20")
    for rate in ("0.05", "0.1"):
        folder = write_run(tmp_path, None, learning_rate=float(rate))
        set_rate(folder, float(rate))
    (table,) = tables(tmp_path)
    labels = sorted(row.label for row in table.rows)
    assert labels[:2] == ["resnet20", "resnet8"]
    assert labels[2].startswith("resnet8 [learning_rate=0.")


def test_rows_are_ranked_by_the_rule_of_the_protocol(tmp_path):
    for protocol, rule in (("crd", "last"), ("simkd", "best")):
        write_run(tmp_path, "kd", accuracies=(90, 60), protocol=protocol)
        write_run(tmp_path, "at", accuracies=(50, 70), protocol=protocol)
        write_run(tmp_path, "sp", accuracies=(70, 70), protocol=protocol)
        write_run(tmp_path, None, accuracies=(99, 99), protocol=protocol)
        (table,) = [t for t in tables(tmp_path) if t.protocol == protocol and t.teacher]
        assert table.rule == rule
        ranks = {row.label: row.ranks.get(rule) for row in table.rows}
        by_last = {"kd": 3, "at": 1, "sp": 1, "alone": None}
        assert ranks == (by_last if rule == "last" else {**by_last, "kd": 1, "at": 2, "sp": 2})


def test_the_held_out_epoch_is_reported_if_images_were_held_out(tmp_path):
    flags = {"held_out": (80, 70), "accuracies": (40, 50), "val_fraction": 0.1}
    write_run(tmp_path, "kd", **flags)
    (table,) = tables(tmp_path)
    assert (table.rule, table.rules) == ("held_out", ["last", "best", "held_out"])
    assert [table.rows[0].scores[rule].mean for rule in table.rules] == [50, 50, 40]


def test_the_same_seed_does_not_count_twice(tmp_path):
    seeds(tmp_path, "kd", (60, 62))
    copy = write_run(tmp_path / "z", "kd", trial=1, accuracies=(31, 62))
    made = report.build_report([tmp_path])
    assert made.num_runs == 2
    (left_out,) = made.not_counted
    assert (left_out.kind, left_out.folder) == ("copy", str(copy))


@pytest.mark.parametrize("baseline", [None, "alone", "at", "kd (kd=2)"])
def test_the_baseline_is_kd_unless_another_is_named(tmp_path, baseline):
    seeds(tmp_path, "kd", (60, 62))
    seeds(tmp_path, "kd", (70, 71), departures={"kd": 2.0}, settings={"kd": 2.0}, div=2)
    seeds(tmp_path, "at", (61, 64, 66))
    seeds(tmp_path, None, (55, 56))
    table = tables(tmp_path, baseline)[0]
    assert table.baseline == (baseline or "kd")
    base = table.by_label[table.baseline]
    assert base.differences == {}
    for row in table.rows:
        if row is not base:
            assert row.differences["last"] == welch(row.scores["last"], base.scores["last"])


def test_an_unknown_baseline_is_an_error_that_names_the_nearest(tmp_path, capsys):
    seeds(tmp_path, "crd", (60, 62))
    assert cli.run("report", [str(tmp_path), "--baseline", "crdd"]) == 2
    assert "no row 'crdd', did you mean 'crd'? There are: crd" in capsys.readouterr().err


def test_without_kd_the_student_alone_is_the_baseline(tmp_path):
    seeds(tmp_path, "at", (60, 62))
    assert tables(tmp_path)[0].baseline is None
    seeds(tmp_path, None, (55, 56))
    assert tables(tmp_path)[0].baseline == "alone"


SCHEDULE = {"dataset": "cifar100", "model_s": "resnet8x4"}
LONG = (50.0,) * 239 + (75.0,)


def beside(root, method, **kwargs):
    write_run(root, method, summary={"teacher": "resnet32x4"}, **{**SCHEDULE, **kwargs})
    ((row,),) = [table.rows for table in tables(root)]
    return {(b.entry.source, b.entry.rule): b for b in row.published}


def test_published_results_are_compared_by_their_own_rule(tmp_path):
    found = beside(tmp_path / "a", "crd", accuracies=(*LONG[:100], 80.0, *LONG[101:]))
    (one,) = found.values()
    assert (one.entry.mean, one.entry.rule, one.difference) == (75.51, "last", 75.0 - 75.51)
    found = beside(tmp_path / "b", "dkd", accuracies=(*LONG[:100], 80.0, *LONG[101:]))
    assert found["mdistiller README", "best"].difference == 80.0 - 76.32
    found = beside(tmp_path / "c", "kd", accuracies=LONG, protocol="simkd")
    assert found["SimKD README", "best"].difference == 75.0 - 74.42
    assert found["SimKD screenshot", "last"].difference == 75.0 - 74.76
    found = beside(tmp_path / "d", "dist", accuracies=LONG)
    assert found["TTM README", "unknown"].difference is None


def test_published_results_are_not_compared_if_training_weights_or_data_differ(tmp_path):
    (one,) = beside(tmp_path / "short", "crd").values()
    assert (one.difference, one.departures) == (None, ("2 epochs, not 240",))
    (one,) = beside(tmp_path / "batch", "crd", accuracies=LONG, batch_size=32).values()
    assert one.departures == ("batch_size 32, not 64",)
    (one,) = beside(tmp_path / "views", "crd", accuracies=LONG, views=4).values()
    assert (one.difference, one.departures) == (None, ("views 4, not None",))
    assert beside(tmp_path / "weights", "crd", accuracies=LONG, departures={"crd": 2.0}) == {}
    assert beside(tmp_path / "data", "crd", accuracies=LONG, dataset="cifar10") == {}
    assert beside(tmp_path / "pair", "crd", accuracies=LONG, model_s="resnet14x4") == {}
    factor = {"protocol": "simkd", "departures": {"simkd.factor": 8}}
    (one,) = beside(tmp_path / "factor", "simkd", accuracies=LONG, **factor).values()
    assert one.entry.mean == 76.73


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Three methods and the student alone for two pairs, three seeds except for one method."""
    root = tmp_path_factory.mktemp("grid")
    for student in ("resnet8", "resnet14"):
        for method, mean in (("kd", 60), ("at", 62), ("crd", 64)):
            for trial in range(1 if method == "crd" else 3):
                accuracies = np.clip(RANDOM.normal(mean, 2, 5), 0, 100).round(1).tolist()
                write_run(root, method, trial=trial, accuracies=accuracies, model_s=student)
        for trial in range(3):
            accuracies = RANDOM.normal(55, 2, 5).round(1).tolist()
            write_run(root, None, trial=trial, accuracies=accuracies, model=student)
    return root


def test_the_csv_has_the_numbers_that_the_separate_script_finds(grid):
    lines = list(csv.DictReader(writer.render_csv(report.build_report([grid])).splitlines()))
    raw = recompute.rows(grid)
    pairs = [line for line in lines if line["teacher"]]
    assert (len(pairs), len(lines)) == (8, 10)
    for line in pairs:
        mine, methods = raw[name_of(line)], [raw[name_of(line | {"method": m})] for m in METHODS]
        assert line["trials"] == " ".join(map(str, range(len(mine))))
        for rule in ("last", "best"):
            found = [number(line[f"{rule}_{part}"]) for part in ("mean", "sd")]
            assert found == near(recompute.figures(mine, rule))
        mean, *others = (recompute.figures(each, "last")[0] for each in (mine, *methods))
        alone = line["method"] == "alone"
        assert line["rank"] == ("" if alone else str(recompute.rank(mean, others)))
        found = [number(line[f"difference{part}"]) for part in ("", "_low", "_high")]
        assert found == near(
            (None,) * 3
            if line["method"] == "kd"
            else recompute.difference(mine, methods[0], "last")
        )
        for name, key in COSTS.items():
            assert float(line[f"{name}_mean"]) == near(recompute.figures(mine, key)[0])
        assert (line["parameters"], line["macs"]) == ("78042", "12501632")


METHODS = ("kd", "at", "crd")
COSTS = {
    "device_hours": "hours",
    "images_per_second": "speed",
    "latency_ms": "latency_ms",
    "peak_memory_mib": "peak_memory_mib",
}


def near(expected):
    """Return a value that compares as equal up to rounding."""
    if isinstance(expected, tuple):
        return [near(each) for each in expected]
    return expected if expected is None else pytest.approx(expected, rel=1e-9, abs=1e-9)


def name_of(line):
    if line["method"] == "alone":
        return f"{line['student']}_vanilla_digits_trial"
    return f"S_{line['student']}_T_resnet20_digits_{line['method']}_r_1_a_0_b_1"


def number(text):
    return float(text) if text else None


def test_overviews_average_what_every_pair_has(grid, tmp_path):
    (overview,) = report.build_report([grid]).overviews()
    raw = recompute.rows(grid)
    assert [table.student for table in overview.tables] == ["resnet14", "resnet8"]
    for label in overview.labels():
        of_pairs = [raw[name_of({"student": s, "method": label})] for s in ("resnet14", "resnet8")]
        means = [recompute.figures(each, "last")[0] for each in of_pairs]
        assert [score.mean for score in overview.scores(label, "own")] == pytest.approx(means)
        assert overview.average(label, "last") == pytest.approx(np.mean(means))
    assert overview.mean_rank("alone", "own") is None
    write_run(grid.parent / "more", "sp", model_s="resnet14", accuracies=(1.0,) * 5)
    (wider,) = report.build_report([grid, grid.parent / "more"]).overviews()
    assert (wider.average("sp", "own"), wider.mean_rank("sp", "own")) == (None, None)
    assert wider.labels()[-1] == "sp"


def test_every_format_is_written_reproducibly(grid, tmp_path, capsys):
    for out in ("a", "b"):
        assert cli.run("report", [str(grid), "--out", str(tmp_path / out)]) == 0
    names = {"report.html", "report.md", "report.csv", "report.tex"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "20 runs in 8 rows" in capsys.readouterr().out
    assert cli.run("report", [str(grid), "--out", str(tmp_path / "c"), "--format", "csv"]) == 0
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["report.csv"]


ODD = "a|b<i>&$x_ {\\}*[y](z)#%~^`\"'\n=1"


def test_names_may_contain_anything_in_every_format(tmp_path):
    """Markdown and LaTeX keep their columns, and spreadsheets see no formula."""
    write_run(tmp_path, "kd", dataset=ODD, name=ODD.replace("\n", " ") + "\udcff\u202e")
    write_run(tmp_path, "kd", dataset=ODD, trial=1, name="=1+1", departures={ODD: ODD})
    bad = write_run(tmp_path, "kd", trial=2, name="=bad")
    (bad / "config.json").write_text("[]")
    made = report.build_report([tmp_path])
    text = writer.render_markdown(made)
    assert text.encode()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1
    assert "<i>" not in text.replace("\\<i\\>", "")
    typeset = writer.render_latex(made)
    for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", typeset, re.S):
        lines = [x for x in body.splitlines() if x.strip().endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1
        assert not re.search(r"(?<!\\)[#%~^]", body.replace(r"\textasciitilde{}", ""))
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", typeset.replace(r"\\", "")):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    for line in csv.reader(writer.render_csv(made).splitlines()):
        for cell in line:
            assert not re.match(r"[=+@]|-[^\d.]", cell)


def test_no_folder_and_no_run_are_errors(tmp_path, capsys):
    assert cli.run("report", []) == 2
    assert "no folder was given" in capsys.readouterr().err
    assert cli.run("report", [str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert cli.run("report", [str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_numbers_are_formatted_for_readers():
    assert [format_signed(x) for x in (1.234, -0.5, 0.001, -0.001)] == [
        "+1.23",
        "−0.50",
        "0.00",
        "0.00",
    ]
    shown = [format_count(x) for x in (12, 999, 78042, 999_600, 12_501_632, 4.11e9)]
    assert shown == ["12", "999", "78.0 k", "1.00 M", "12.5 M", "4.11 G"]
    assert [time_unit([x])[0] for x in (0.001, 0.049, 0.5, 1.99, 2, 90)] == [
        "s",
        "s",
        "min",
        "min",
        "h",
        "h",
    ]
