"""Read YAML that people write, with bounds, so that no file takes all memory."""

from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from distillers.errors import InputError

MAX_CHARACTERS = 200_000
MAX_VALUE = 4096  # characters of one value or name, as of a path


def read_yaml(path: str | Path, what: str, loader: "type[BoundedLoader] | None" = None) -> object:
    """Read a YAML or JSON file, by `BoundedLoader` unless another loader is given.

    `what` names the file in messages, as in "the grid sweep.yml".

    Raises:
        InputError: if it cannot be read, see also `parse_yaml`.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(4 * MAX_CHARACTERS + 1).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {what}: {error}") from error
    return parse_yaml(text, what, loader)


def read_text_mapping(path: str | Path, what: str) -> dict[str, str]:
    """Read a YAML or JSON mapping, whose names and values stay as they are written.

    `what` names the file in messages.

    Raises:
        InputError: as `read_yaml`, or if it is not a mapping of names to single values.
    """
    content = read_yaml(path, what, TextLoader)
    if not isinstance(content, dict) or not all(
        isinstance(each, str) for pair in content.items() for each in pair
    ):
        raise InputError(f"{what} must be a mapping of names to values.")
    return content


def parse_yaml(text: str, what: str, loader: "type[BoundedLoader] | None" = None) -> object:
    """Parse YAML or JSON into plain types; `what` is its name in messages.

    Raises:
        InputError: if it is not valid, gives a key of a mapping twice, has a value longer than
            `MAX_VALUE`, or more than `MAX_CHARACTERS` with every alias expanded.
    """
    try:
        if len(text) > MAX_CHARACTERS:
            raise yaml.YAMLError(f"it has more than {MAX_CHARACTERS:,} characters")
        return yaml.load(text, loader or BoundedLoader)
    except RecursionError as error:
        raise InputError(f"cannot read {what}: it is nested too deeply.") from error
    except Exception as error:  # a value that does not fit its tag can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot read {what}: {reason}") from error


class BoundedLoader(yaml.SafeLoader):
    """A `yaml.SafeLoader` that bounds what aliases expand to, and refuses keys given twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}  # characters by the id of a node

    @override
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if is_alias and id(node) not in self._sizes:
            raise _error("an alias stands for a value that holds it", node)
        self._sizes[id(node)] = 1 + self._content_size(node)
        if self._sizes[id(node)] > MAX_CHARACTERS:
            raise _error(f"its aliases stand for more than {MAX_CHARACTERS:,} characters", node)
        return node

    def _content_size(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.MappingNode):
            return sum(self._sizes[id(child)] for pair in node.value for child in pair)
        if isinstance(node, yaml.SequenceNode):
            return sum(self._sizes[id(child)] for child in node.value)
        if len(node.value) > MAX_VALUE:
            raise _error(f"a value has more than {MAX_VALUE:,} characters", node)
        return len(node.value)

    @override
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Check the keys as written; those of a merged mapping may be overridden."""
        node = super().compose_mapping_node(anchor)
        names: set[str] = set()
        for key, _ in node.value:
            name = self._name(str(key.value)) if isinstance(key, yaml.ScalarNode) else ""
            if name in names and name != "<<":
                raise _error(f"{name} is given twice", node)
            names.add(name)
        return node

    def _name(self, key: str) -> str:
        """Return what a key names; that of a flag may be written with hyphens."""
        return key.replace("-", "_")


class TextLoader(BoundedLoader):
    """A `BoundedLoader` that reads every name and value as text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012, as its base class declares it

    @override
    def _name(self, key: str) -> str:
        return key


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
