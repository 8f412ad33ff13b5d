"""The commands of a page of the documentation, to be run as printed."""

import glob
import re
import shlex

from distillers.cli import main as cli

WITHOUT_DEVICE = ("cache", "compare", "export", "report")


def commands(text: str) -> list[list[str]]:
    """Return name and arguments of the commands of `distillers` in the shell blocks of a text.

    `python train_student.py` is "student". Variables are set, `pip` and other scripts left out.
    """
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        known: dict[str, str] = {}
        for line in block.splitlines():
            if assigned := re.fullmatch(r'([A-Z]+)="?(.*?)"?', line):
                known[assigned[1]] = assigned[2]
                continue
            for name, value in known.items():
                line = re.sub(rf"\${name}\b", value.replace("\\", r"\\"), line)
            words = shlex.split(line)
            script = re.fullmatch(r"(?:train_)?(\w+?)(?:_student)?\.py", words[1])
            if words[0] == "distillers":
                found.append(words[1:])
            elif words[0] == "python" and script:
                found.append([script[1], *words[2:]])
    return found


def run(words: list[str]) -> int:
    """Run a command on the CPU, with patterns of files expanded as a shell does."""
    expanded = [each for word in words for each in (sorted(glob.glob(word)) or [word])]
    device = [] if words[0] in WITHOUT_DEVICE else ["--gpu_id", "cpu"]
    return cli.run(expanded[0], [*expanded[1:], *device])
