"""The study's grid names flags that exist, and its results are told apart."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import yaml

from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.data import source_of
from distillers.distillation import loss_weights as weights
from distillers.errors import InputError

PATH = Path(__file__).parents[2] / "benchmarks" / "study.py"
spec = importlib.util.spec_from_file_location("study", PATH)
study = importlib.util.module_from_spec(spec)
spec.loader.exec_module(study)
GRID = yaml.safe_load(study.GRID.read_text())


def words(method):
    """The flags of a run, as the sweep gives them to train_student.py."""
    flags = {**GRID["fixed"], **{k: v for k, v in method.items() if k != "name"}}
    found = ["--path_t", "teacher.pth", "--model_s", "resnet8", "--trial", "0"]
    for name, value in flags.items():
        if value is True:
            found.append(f"--{name}")
        else:
            found += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    return found


def flags_of(method):
    if method["distill"] == "alone":
        alone = {"model": "resnet8", "trial": 0, "protocol": method["protocol"]}
        return {**alone, "precision": GRID["fixed"]["precision"]}
    config = parse(StudentConfig, words(method), "train_student.py")
    config.check()
    chosen = weights.choose(config, "resnet20")
    weights.options(config, chosen, "resnet20")
    return config.as_json_types()


def test_every_entry_is_a_run_and_no_run_is_of_two_entries():
    names = [method["name"] for method in GRID["methods"]]
    assert len(set(names)) == len(names)
    for method in GRID["methods"]:
        run = {"config": flags_of(method)}
        assert [m["name"] for m in GRID["methods"] if study.is_of(m, run)] == [method["name"]]
    methods = {method["distill"] for method in GRID["methods"]}
    eleven = {"kd", "fitnet", "at", "sp", "vid", "crd", "srrl", "semckd", "simkd", "rrd", "dcd"}
    assert eleven | {"alone", "dkd"} == methods
    for name in eleven - {"kd"}:
        pairs = {(m["cls"], m["div"]) for m in GRID["methods"] if m["distill"] == name}
        assert {(1, 0), (1, 1)} <= pairs


def test_the_grid_of_the_second_set_differs_in_its_methods_and_seeds():
    second = yaml.safe_load(study.GRID.with_name("study_second.yml").read_text())
    shared = ("save_dir", "fixed", "teachers", "pairs")
    assert [second[name] for name in shared] == [GRID[name] for name in shared]
    anchors = [method for method in second["methods"] if method in GRID["methods"]]
    rest = [method for method in second["methods"] if method not in GRID["methods"]]
    assert [method["distill"] for method in anchors] == ["alone", "kd", "kd", "dkd", "rrd"]
    methods = {"catkd", "ctkd", "distplus", "hkd", "ickd", "irg", "luminet", "mgd", "normkd", "ofa"}
    methods |= {"crld", "mlkd"}
    methods |= {"queuekl", "rld", "sdd", "skd", "srd", "ttm", "vkd", "wkdf", "wkdl", "wttm"}
    assert sorted(method["distill"] for method in rest) == sorted(methods)
    for method in rest:
        flags_of(method)  # parses, with weights and options that are allowed


def folder(root, kind, name, config, accuracies):
    path = root / kind / "models" / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    rows = [{"epoch": i + 1, "test_acc": acc} for i, acc in enumerate(accuracies)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "parameters.json").write_text('{"Total time": 0.5}')
    environment = dict.fromkeys(("python", "torch", "device", "cpu_threads", "revision"), "x")
    (path / "environment.json").write_text(json.dumps(environment))


def test_last_and_best_epoch_are_collected_of_finished_runs(tmp_path, capsys):
    grid = {**GRID, "save_dir": str(tmp_path), "fixed": {**GRID["fixed"], "epochs": 3}}
    folder(tmp_path, "teachers", "t", {"model": "resnet20", "trial": 0}, [50, 80, 79])
    kd = next(m for m in GRID["methods"] if m["name"] == "KD (1/1)")
    for trial, curve in ((0, [10, 70, 60]), (1, [10, 50, 62]), (2, [10, 20])):
        config = {**flags_of(kd), "trial": trial}
        folder(tmp_path, "students", f"s{trial}", config, curve)
    study.collect(grid, tmp_path / "study.json")
    content = json.loads((tmp_path / "study.json").read_text())
    assert set(content["results"]) == {"KD (1/1)"}
    row = content["results"]["KD (1/1)"]
    assert row["trials"] == [0, 1]  # the third is not finished
    assert row["last"]["values"] == [60, 62]
    assert row["best"] == {"values": [70, 62], "mean": 66, "sd": pytest.approx(5.656854), "n": 2}
    assert "| KD (1/1) | 61.00 ± 1.41 | 66.00 ± 5.66 |  | 2 |" in capsys.readouterr().out
    assert content["teacher"]["best"]["mean"] == 80


def test_a_method_is_set_beside_kd_of_its_protocol_and_beside_the_published_table(tmp_path, capsys):
    grid = {**GRID, "save_dir": str(tmp_path), "fixed": {**GRID["fixed"], "epochs": 2}}
    folder(tmp_path, "teachers", "t", {"model": "resnet20", "trial": 0}, [50, 80])
    curves = {"KD (1/1)": [[9, 60], [9, 62]], "SP + KD": [[66, 65], [69, 68]]}
    curves |= {"AT + KD": [[9, 64], [9, 64]], "SimKD + KD": [[9, 10], [9, 12]], "SP": [[9, 70]]}
    for method in GRID["methods"]:
        for trial, curve in enumerate(curves.get(method["name"], [])):
            name = f"{method['name']} {trial}".replace("/", "-")
            folder(tmp_path, "students", name, {**flags_of(method), "trial": trial}, curve)
    study.collect(grid, tmp_path / "study.json")
    content = json.loads((tmp_path / "study.json").read_text())
    over = content["results"]["SP + KD"]["over KD"]
    assert over["value"] == pytest.approx(5.5)
    assert over["low"] < 0 < over["high"]  # Welch: 5.5 -+ 3.8 * 1.8
    assert content["results"]["SP"]["over KD"] is None  # there is no KD of its protocol
    there = content["published"]["simkd"]
    found = {name: each["ours"] for name, each in there["methods"].items()}
    assert found == {"KD (1/1)": 61, "AT + KD": 64, "SP + KD": 67.5}  # SimKD's weights are others
    assert there["methods"]["AT + KD"]["theirs"] == 75.07
    assert there["rho"] == pytest.approx(-0.5)  # 61, 64, 67.5 beside 74.42, 75.07, 74.29
    assert "| AT + KD | 64.00 | 75.07 | best |" in capsys.readouterr().out


def test_runs_of_another_precision_do_not_count_and_one_seed_counts_once(tmp_path):
    grid = {**GRID, "save_dir": str(tmp_path), "fixed": {**GRID["fixed"], "epochs": 2}}
    folder(tmp_path, "teachers", "t", {"model": "resnet20", "trial": 0}, [50, 80])
    alone = flags_of(next(m for m in GRID["methods"] if m["name"] == "alone"))
    folder(tmp_path, "teachers", "a", alone, [9, 60])
    folder(tmp_path, "teachers", "b", {**alone, "precision": "fp32"}, [9, 70])
    study.collect(grid, tmp_path / "study.json")
    rows = json.loads((tmp_path / "study.json").read_text())["results"]
    assert rows["alone"]["last"]["values"] == [60]
    folder(tmp_path, "teachers", "c", alone, [9, 80])
    with pytest.raises(InputError, match="alone has trial 0 twice"):
        study.collect(grid, tmp_path / "study.json")


def test_a_run_that_diverged_is_told_and_not_averaged(tmp_path, capsys):
    grid = {**GRID, "save_dir": str(tmp_path), "fixed": {**GRID["fixed"], "epochs": 2}}
    folder(tmp_path, "teachers", "t", {"model": "resnet20", "trial": 0}, [50, 80])
    by_name = {method["name"]: method for method in GRID["methods"]}
    for trial, status in ((0, 3), (1, 1)):  # the second failed for another reason
        config = {**flags_of(by_name["SemCKD + KD"]), "trial": trial}
        folder(tmp_path, "students", f"s{trial}", config, [9])
        failure = tmp_path / "sweep" / "failed" / f"s{trial}"
        failure.parent.mkdir(parents=True, exist_ok=True)
        failure.write_text(json.dumps({"status": status}))
    folder(tmp_path, "students", "kd", {**flags_of(by_name["KD (1/1)"]), "trial": 0}, [9, 60])
    study.collect(grid, tmp_path / "study.json")
    rows = json.loads((tmp_path / "study.json").read_text())["results"]
    assert (rows["SemCKD + KD"]["diverged"], rows["SemCKD + KD"]["trials"]) == ([0], [])
    assert rows["KD (1/1)"]["diverged"] == []
    told = capsys.readouterr().out
    assert told.count("SemCKD") == 1
    assert "| SemCKD + KD | diverged | | | 1 |" in told


def test_the_earlier_repetition_is_set_beside_rows_that_both_have():
    def rows(**means):
        row = {"protocol": "crd", "trials": [0]}
        return {name: {**row, "last": {"mean": mean}} for name, mean in means.items()}

    ours = {**rows(alone=10, a=60, b=70, c=65, d=1), "diverged": {"trials": []}}
    earlier = {**rows(alone=9, a=52, b=50, c=51, diverged=3), "d": {"trials": []}}
    beside = {"results": earlier, "teacher": {"last": {"mean": 77.0}}}
    found = study.repetition(ours, beside)
    assert found["last"] == {"alone": 9, "a": 52, "b": 50, "c": 51}
    assert found["rho"] == pytest.approx({"all rows": 0.2, "crd methods": -1})


@pytest.mark.parametrize("name", ["study", "study_second"])
def test_the_page_shows_what_was_measured(name):
    content = json.loads((PATH.parent / "results" / f"{name}.json").read_text())
    page = (PATH.parents[1] / "docs" / "study.md").read_text()
    assert "\n\n" + "\n".join(study.table(content)) + "\n" in page


def test_ranks_share_what_is_equal():
    assert study.ranks([3, 1, 3, 7]) == [2.5, 1, 2.5, 4]
    equal = (70.94 + 70.47 + 70.11) / 3, (70.15 + 70.95 + 70.42) / 3
    assert study.ranks(equal) == [1.5, 1.5]
    scipy = pytest.importorskip("scipy.stats")
    first, second = [3, 1, 3, 7, 5], [2, 2, 4, 9, 1]
    assert study.spearman(first, second) == pytest.approx(scipy.spearmanr(first, second).statistic)


def test_the_small_cifar10_is_read_as_cifar10_is(tmp_path, monkeypatch):
    import pickle

    labels = (torch.arange(300) * 7 % 10).tolist()
    pixels = torch.randint(256, (300, 3072), dtype=torch.uint8).numpy()
    source = tmp_path / "data" / study.FOLDER
    source.mkdir(parents=True)
    for i in range(5):
        part = slice(60 * i, 60 * i + 60)
        content = {b"data": pixels[part], b"labels": labels[part]}
        (source / f"data_batch_{i + 1}").write_bytes(pickle.dumps(content))
    content = {b"data": pixels[:20], b"labels": labels[:20]}
    (source / "test_batch").write_bytes(pickle.dumps(content))
    names = {b"label_names": [b"class %d" % k for k in range(10)]}
    (source / "batches.meta").write_bytes(pickle.dumps(names))
    monkeypatch.setattr(study, "EACH_CLASS", 12)
    study.prepare(tmp_path / "data", tmp_path / "small")
    small = source_of("cifar10", tmp_path / "small", download=False)
    assert small.train_labels.bincount().tolist() == [12] * 10
    rows = sorted(i for k in range(10) for i in [j for j in range(300) if labels[j] == k][:12])
    expected = torch.from_numpy(pixels[rows]).view(-1, 3, 32, 32)
    assert torch.equal(small.train_images, expected)
    assert small.train_labels.tolist() == [labels[i] for i in rows]
    assert len(small.test_labels) == 20
