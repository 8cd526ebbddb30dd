"""A YAML file as plain values, and the place of each of them.

Owns ruamel.yaml and its traps (docs/design/stack.md): duplicate keys and their secrets, unknown
tags, aliases without end, numbers that eat their digits. Does not own what the values mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from routerd.config.diagnostics import Diagnostic, Mark, Severity
from routerd.config.redaction import redacted_lines

FILE_LIMIT = 4 * 1024 * 1024  # bytes
NODES_LIMIT = 500_000  # values after aliases are followed
DEPTH_LIMIT = 50  # a policy is five deep

_MERGE = "tag:yaml.org,2002:merge"
_KINDS: Mapping[type[Node], str] = {
    MappingNode: "tag:yaml.org,2002:map",
    SequenceNode: "tag:yaml.org,2002:seq",
}
_TAG = "a tag means nothing here; quote a text that starts with !"
# What a parser's message cites of the file: it may be of a secret.
_QUOTED = re.compile(r" *(['\"])(.*?)\1")
_ALIAS = re.compile(r"(\*[^\s,\[\]{}]*)(:?)")

KeyPath = tuple[str | int, ...]


class Unreadable(Exception):
    """The file cannot be read at all: not there, a directory, not allowed."""


@dataclass(slots=True)
class Document:
    """One file: its values, where each key and value stands, and its lines as they may be shown.

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
    document = Document(str(path), data, [])
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
    root = None
    try:
        root = _parser().compose(text)
    except MaxDepthExceededError as error:
        document.error("syntax", f"nested deeper than {DEPTH_LIMIT}", _mark_of(error))
        return
    except MarkedYAMLError as error:
        document.error("syntax", _explain(error, text), _mark_of(error))
        return
    except (YAMLError, ValueError, RecursionError) as error:
        document.error("syntax", f"not YAML: {type(error).__name__}", Mark(0, 0))
        return
    finally:
        document.lines = redacted_lines(text, root)
    if root is None:
        document.error("syntax", "the file is empty", Mark(0, 0))
    elif not isinstance(root, MappingNode):
        document.error("syntax", "a policy is a mapping of keys", _node_mark(root))
    else:
        document.values = _Builder(document).root(root)


def _parser() -> YAML:
    parser = YAML(typ="rt", pure=True)
    parser.max_depth = DEPTH_LIMIT + 1  # a value in the innermost mapping
    parser.composer.warn_double_anchors = False  # the warning prints the line, and YAML allows it
    return parser


def _explain(error: MarkedYAMLError, text: str) -> str:
    # The problem's text only, and nothing that it quotes: it may be of a secret.
    problem = str(error.problem or "not YAML").strip()
    mark = error.problem_mark
    if mark is not None and text[mark.index : mark.index + 1] == "*":
        alias = _ALIAS.match(text, mark.index)
        name, colon = (alias[1], alias[2]) if alias else ("", "")
        is_key = name.endswith(":") or colon
        name = name.rstrip(":")
        if is_key and name in redacted_lines(text, None)[mark.line]:
            return f'a key that starts with * is an alias in YAML; quote it: "{name}"'
        return "a text that starts with * is an alias in YAML, of no anchor here; quote it"
    return _QUOTED.sub(_if_harmless, problem.partition("\n")[0])


def _if_harmless(quoted: re.Match[str]) -> str:
    """One character, or a token's name in <>: what the parser says and does not cite."""
    return quoted[0] if len(quoted[2]) < 2 or quoted[2].startswith("<") else ""


def _mark_of(error: MarkedYAMLError) -> Mark:
    mark = error.problem_mark or error.context_mark
    return Mark(0, 0) if mark is None else Mark(mark.line + 1, mark.column + 1)


def _node_mark(node: Node) -> Mark:
    start, end = node.start_mark, node.end_mark
    length = end.column - start.column if end.line == start.line else 1
    return Mark(start.line + 1, start.column + 1, max(1, length))


_Pairs = dict[str, tuple[ScalarNode, Node]]


class _Builder:
    """Plain values out of composed nodes, which know their places and their written texts."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0
        self._merged: dict[int, _Pairs] = {}
        self._merging: list[int] = []  # the nodes whose merges are being followed, by id

    def root(self, node: MappingNode) -> dict[str, Any]:
        """The whole document's values."""
        return self._mapping(node, ()) if self._is_plain(node) else {}

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, (key_node, value_node) in self._pairs(node).items():
            here = (*path, key)
            self._document.keys[here] = _node_mark(key_node)
            found[key] = self._value(value_node, here)
        return found

    def _pairs(self, node: MappingNode) -> _Pairs:
        """A mapping's keys with those it merges (`<<`): its own win, then those of the first.

        Each mapping is merged once, however often it is named, so that merges of merges cost what
        they bring and no more.
        """
        if id(node) in self._merged:
            return self._merged[id(node)]
        if id(node) in self._merging or len(self._merging) > DEPTH_LIMIT:
            circle = "a mapping merges itself" if id(node) in self._merging else None
            message = circle or f"merged deeper than {DEPTH_LIMIT}"
            self._document.error("syntax", message, _node_mark(node))
            return {}
        self._merging.append(id(node))
        own = self._own(node)
        found: _Pairs = {}
        for source in self._sources(node):
            pairs = self._pairs(source)
            if not self._may_take(len(pairs) + 1, node):
                break
            for key, pair in pairs.items():
                found.setdefault(key, pair)
        self._merging.pop()
        # What is merged comes first, as if it had been written there.
        self._merged[id(node)] = found | own
        return self._merged[id(node)]

    def _own(self, node: MappingNode) -> _Pairs:
        own: _Pairs = {}
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
            own[key] = (key_node, value_node)
        return own

    def _sources(self, node: MappingNode) -> Iterator[MappingNode]:
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                continue
            several = isinstance(value_node, SequenceNode)
            for source in value_node.value if several else [value_node]:
                if isinstance(source, MappingNode):
                    yield source
                else:
                    self._document.error("syntax", "'<<' takes mappings", _node_mark(value_node))

    def _may_take(self, count: int, node: Node) -> bool:
        """Whether so many more values are within the limit; noted once where they are not."""
        before = self._count
        self._count += count
        if self._count <= NODES_LIMIT:
            return True
        if before <= NODES_LIMIT:
            message = f"more than {NODES_LIMIT} values, aliases followed"
            self._document.error("syntax", message, _node_mark(node))
        return False

    def _is_plain(self, node: Node) -> bool:
        """Whether a mapping or list has no tag of its own; noted where it has."""
        if node.tag == _KINDS[type(node)]:
            return True
        self._document.error("syntax", _TAG, _node_mark(node))
        return False

    def _value(self, node: Node, path: KeyPath) -> Any:
        if not self._may_take(1, node):
            return None
        if len(path) > DEPTH_LIMIT:
            message = f"nested deeper than {DEPTH_LIMIT}"
            self._document.error("syntax", message, _node_mark(node))
            return None
        self._document.marks[path] = _node_mark(node)
        if isinstance(node, MappingNode | SequenceNode) and not self._is_plain(node):
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
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
        self._document.error("syntax", _TAG, _node_mark(node))
        return None


def dump(values: dict[str, Any]) -> str:
    """Plain values as YAML."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    out = StringIO()
    writer.dump(values, out)
    return out.getvalue()
