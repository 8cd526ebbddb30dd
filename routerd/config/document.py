"""A YAML file as plain values, and the place of each of them.

Owns ruamel.yaml and its traps (docs/design/stack.md): duplicate keys and their secrets, unknown
tags, aliases without end, numbers that eat their digits. Does not own what the values mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from routerd.config.diagnostics import Diagnostic, Mark, Severity

FILE_LIMIT = 4 * 1024 * 1024  # bytes
NODES_LIMIT = 500_000  # values after aliases are followed
DEPTH_LIMIT = 50  # a policy is five deep

_MERGE = "tag:yaml.org,2002:merge"

KeyPath = tuple[str | int, ...]


class Unreadable(Exception):
    """The file cannot be read at all: not there, a directory, not allowed."""


@dataclass(slots=True)
class Document:
    """One file: its values, where each key and value stands, and its lines.

    `values` has plain dicts, lists, texts, numbers, booleans and None. Keys are texts. `texts` has
    what was written where YAML made it a number, so `1.10` is not `1.1`.
    """

    file: str
    data: bytes
    lines: list[str]
    values: dict[str, Any] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    marks: dict[KeyPath, Mark] = field(default_factory=dict)
    texts: dict[KeyPath, str] = field(default_factory=dict)

    def error(self, code: str, message: str, mark: Mark) -> None:
        """Note a problem."""
        self.problems.append(Diagnostic(Severity.ERROR, code, message, self.file, mark))

    def key(self, path: KeyPath) -> Mark:
        """Where the key of `path` stands; where its parent does, if it stands nowhere."""
        while path and path not in self.keys:
            path = path[:-1]
        return self.keys.get(path, Mark(0, 0))

    def value(self, path: KeyPath) -> Mark:
        """Where the value of `path` stands."""
        return self.marks.get(path) or self.key(path)


def load(path: Path) -> Document:
    """The document in `path`, its problems noted in it. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from error
    text = data.decode("utf-8", errors="replace")
    document = Document(str(path), data, text.splitlines())
    if len(data) > FILE_LIMIT:
        document.error("syntax", f"the file is larger than {FILE_LIMIT} bytes", Mark(0, 0))
    elif "\x00" in text or _not_utf8(data):
        document.error("syntax", "the file is not text in UTF-8", Mark(0, 0))
    else:
        _compose(document, text)
    return document


def _not_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _compose(document: Document, text: str) -> None:
    try:
        if (deep := _too_deep(text)) is not None:
            document.error("syntax", f"nested deeper than {DEPTH_LIMIT}", Mark(deep, 1))
            return
        root = YAML(typ="rt", pure=True).compose(text)
    except MarkedYAMLError as error:
        document.error("syntax", _explain(error, document), _mark_of(error))
        return
    except (YAMLError, ValueError, RecursionError) as error:
        document.error("syntax", f"not YAML: {type(error).__name__}", Mark(0, 0))
        return
    if root is None:
        document.error("syntax", "the file is empty", Mark(0, 0))
    elif not isinstance(root, MappingNode):
        document.error("syntax", "a policy is a mapping of keys", _node_mark(root))
    else:
        document.values = _Builder(document).mapping(root, ())


def _too_deep(text: str) -> int | None:
    """The line where brackets or dashes nest too deeply for the parser's own recursion."""
    depth = 0
    for number, line in enumerate(text.splitlines(), start=1):
        depth += line.count("[") + line.count("{") - line.count("]") - line.count("}")
        dashes = len(line) - len(line.lstrip("- "))
        if depth > DEPTH_LIMIT or dashes > 4 * DEPTH_LIMIT or line.count(": ") > 4 * DEPTH_LIMIT:
            return number
    return None


def _explain(error: MarkedYAMLError, document: Document) -> str:
    # The problem's text only: the context of some errors prints values, secrets included.
    problem = str(error.problem or "not YAML").strip()
    mark = _mark_of(error)
    line = document.lines[mark.line - 1] if 0 < mark.line <= len(document.lines) else ""
    if line.lstrip("- ").startswith("*"):
        return 'a key that starts with * is an alias in YAML; quote it: "' + (
            line.strip().partition(":")[0] + '"'
        )
    return problem


def _mark_of(error: MarkedYAMLError) -> Mark:
    mark = error.problem_mark or error.context_mark
    return Mark(0, 0) if mark is None else Mark(mark.line + 1, mark.column + 1)


def _node_mark(node: Node) -> Mark:
    start, end = node.start_mark, node.end_mark
    length = end.column - start.column if end.line == start.line else 1
    return Mark(start.line + 1, start.column + 1, max(1, length))


class _Builder:
    """Plain values out of composed nodes, which know their places and their written texts."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        """The mapping at `path`; what it merges (`<<`) first, so that its own keys win."""
        found: dict[str, Any] = {}
        own: set[str] = set()
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                self._merge(value_node, path, found)
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            if not isinstance(key_node, ScalarNode):
                self._document.error("syntax", "a key is a text", _node_mark(key_node))
                continue
            key = str(key_node.value)
            if key in own:
                # The parser's own message would print both values.
                message = f"'{key}' is written twice"
                self._document.error("duplicate-key", message, _node_mark(key_node))
                continue
            own.add(key)
            here = (*path, key)
            self._document.keys[here] = _node_mark(key_node)
            found[key] = self._value(value_node, here)
        return found

    def _merge(self, node: Node, path: KeyPath, into: dict[str, Any]) -> None:
        sources = node.value if isinstance(node, SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, MappingNode):
                self._document.error("syntax", "'<<' takes mappings", _node_mark(node))
                continue
            for key, value in self.mapping(source, path).items():
                into.setdefault(key, value)

    def _value(self, node: Node, path: KeyPath) -> Any:
        self._count += 1
        if self._count > NODES_LIMIT:
            if self._count == NODES_LIMIT + 1:
                message = f"more than {NODES_LIMIT} values, aliases followed"
                self._document.error("syntax", message, _node_mark(node))
            return None
        if len(path) > DEPTH_LIMIT:
            message = f"nested deeper than {DEPTH_LIMIT}"
            self._document.error("syntax", message, _node_mark(node))
            return None
        self._document.marks[path] = _node_mark(node)
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _scalar(self, node: Node, path: KeyPath) -> Any:
        text = str(node.value)
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        try:
            match kind:
                case "str" | "timestamp":
                    return text
                case "null":
                    return None
                case "bool":
                    self._document.texts[path] = text
                    return text.lower() == "true"
                case "int":
                    self._document.texts[path] = text
                    return int(text.replace("_", ""), 0 if text[:2] in ("0x", "0o") else 10)
                case "float":
                    self._document.texts[path] = text
                    return float(text.replace("_", ""))
        except ValueError:
            return text
        self._document.error("syntax", f"the tag {node.tag} means nothing here", _node_mark(node))
        return None


def dump(values: dict[str, Any]) -> str:
    """Plain values as YAML."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    out = StringIO()
    writer.dump(values, out)
    return out.getvalue()
