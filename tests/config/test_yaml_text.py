"""YAML of users: bounded in memory and time, and read in any locale."""

import os
import subprocess
import sys
import time

import pytest

from distillers.cli import main as cli
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.config.yaml_text import MAX_CHARACTERS, parse_yaml, read_yaml
from distillers.errors import InputError


def billion_laughs(opening, closing):
    lines = [f"a0: &a0 {opening}x: 1{closing}" if opening == "{" else "a0: &a0 [x, x]"]
    for n in range(1, 40):
        former = f"*a{n - 1}"
        inner = f"y: {former}, z: {former}" if opening == "{" else f"{former}, {former}"
        lines.append(f"a{n}: &a{n} {opening}{inner}{closing}")
    return "\n".join(lines)


def merges():
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
    return "\n".join(lines)


REFUSED = {
    "lists": (billion_laughs("[", "]"), "aliases stand for more than"),
    "mappings": (billion_laughs("{", "}"), "aliases stand for more than"),
    "merges": (merges(), "aliases stand for more than"),
    "long text": (f"a: &a {'x' * 1000}\nb: [{', '.join(['*a'] * 300)}]", "aliases stand for more"),
    "cycle": ("a: &a [1, *a]", "an alias stands for a value that holds it"),
    "cycle in a mapping": ("a: &a {b: [*a]}", "an alias stands for a value that holds it"),
    "deep": ("[" * 5000, "nested too deeply"),
    "long": ("a: " + "x" * MAX_CHARACTERS, "more than 200,000 characters"),
    "digits": ("a: " + "9" * 5000, "cannot read it: "),
    "object": ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
    "int": ("a: !!int ''", "cannot read it: "),
    "bool": ("a: !!bool maybe", "cannot read it: "),
    "time": ("a: !!timestamp soon", "cannot read it: "),
    "date": ("a: 2026-13-45", "cannot read it: "),
    "key": ("? [1, 2]\n: 3", "unhashable key"),
    "twice": ("lr-decay: 1\nlr_decay: 2", "lr_decay is given twice"),
    "undefined": ("a: *b", "undefined alias"),
    "open": ("a: {", "cannot read it: "),
    "control": ("a: \x01", "cannot read it: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_take_all_memory_or_is_no_value_is_refused_in_a_line(case):
    text, reason = REFUSED[case]
    start = time.monotonic()
    with pytest.raises(InputError, match=reason) as caught:
        parse_yaml(text, "it")
    assert time.monotonic() - start < 5
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_aliases_within_bounds_and_merges_are_read():
    text = "a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2}"
    assert parse_yaml(text, "it") == {
        "a": {"x": 1},
        "b": [{"x": 1}, {"x": 1}],
        "c": {"x": 1, "y": 2},
    }


def test_only_the_beginning_of_an_endless_file_is_read():
    if not os.path.exists("/dev/zero"):
        pytest.skip("needs /dev/zero")
    with pytest.raises(InputError, match="cannot read zeros"):
        read_yaml("/dev/zero", "zeros")


@pytest.mark.parametrize("content", [b"\xff\xfea: 1", b"a: \xe9"])
def test_other_encodings_than_utf8_are_refused(tmp_path, content):
    (tmp_path / "a.yml").write_bytes(content)
    with pytest.raises(InputError, match="cannot read it: 'utf-8' codec"):
        read_yaml(tmp_path / "a.yml", "it")


def test_a_byte_order_mark_is_ignored(tmp_path):
    (tmp_path / "a.yml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(tmp_path / "a.yml", "it") == {"a": 1}


@pytest.mark.parametrize("case", ["lists", "merges", "cycle", "deep", "digits", "twice"])
def test_config_files_are_bounded_too(tmp_path, capsys, case):
    path = tmp_path / "flags.yml"
    path.write_text(REFUSED[case][0])
    assert cli.run("student", ["--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot read --config {path}: ")


CODE = """
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
print(ascii(parse(StudentConfig, ["--config", "flags.yml"], "test").data_dir))
"""


@pytest.mark.parametrize("locale", ["POSIX", "C.UTF-8"])
@pytest.mark.parametrize("utf8", ["0", "1"])
def test_config_files_are_utf8_in_every_locale(tmp_path, locale, utf8):
    (tmp_path / "flags.yml").write_bytes("data_dir: Bücher\ntrial: 0\n".encode())
    paths = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": utf8, "PYTHONPATH": paths}
    environment["PYTHONCOERCECLOCALE"] = "0"
    words = [sys.executable, "-c", CODE]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "'B\\xfccher'\n", done.stderr


def test_a_config_file_sets_flags(tmp_path):
    (tmp_path / "flags.yml").write_text("trial: 3\nepochs: 7\n")
    config = parse(StudentConfig, ["--config", str(tmp_path / "flags.yml")], "test")
    assert (config.trial, config.epochs) == (3, 7)


def test_a_null_character_is_no_part_of_a_path(tmp_path, capsys):
    (tmp_path / "x.yml").write_text('save_dir: "a\\0b"')
    assert cli.run("teacher", ["--config", str(tmp_path / "x.yml"), "--model", "resnet8"]) == 2
    assert "null character" in capsys.readouterr().err
