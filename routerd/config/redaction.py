"""The source lines of a policy as they may be shown: stars in the place of every secret.

Owns finding them in the text, by the nodes of the document, so that neither quotes nor aliases nor
line ends matter; each star stands for a character, so that a caret below stays where it was. Does
not own what a secret is (`sight.py`) nor parsing (`document.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from routerd.config.sight import Sight, below, by_name, hidden_in_key, hidden_parts, is_secret_key

_TABLE = frozenset({"upstream", "username", "password", "acl"})  # the proposal's form
_WORD = re.compile(r"\w+")
_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # where ruamel.yaml counts a line
_COMMENT_LINE = re.compile("[ \t]*(#[^\r\n\x85\u2028\u2029]*)?(?:\r\n|[\r\n\x85\u2028\u2029])")
_PROPERTIES = re.compile(r"(?:[!&]\S*[ \t]*)*")
_COMMENT = re.compile("#[^\r\n\x85\u2028\u2029]*")
_COMMENTED = (Sight.LOGIN, Sight.SECRET, Sight.ADDRESS)  # whose comment may be part of it
_MAPPING, _SCALAR = "mapping", "scalar"  # `id` of a node


class Node(Protocol):
    """A node as ruamel.yaml composes it, of which only this is known here. Marks have an `index`, in
    characters from the start of the text.
    """

    id: str
    value: Any
    start_mark: Any
    end_mark: Any


def redacted_lines(text: str, root: Node | None) -> list[str]:
    """The lines of a YAML text as they may be shown. `root` None: it could not be parsed, and what
    may be a secret is told by its words alone.
    """
    if root is None:
        return _redacted_blindly(text)
    spans = sorted(_spans(text, root))
    shown: list[str] = []
    done = 0
    for start, end in spans:
        if end > done:
            shown += [text[done:start], _stars(text[max(start, done) : end])]
            done = end
    return _LINE_END.split("".join(shown) + text[done:])


def _stars(text: str) -> str:
    return re.sub("[^\r\n\x85\u2028\u2029]", "*", text)


# By the nodes of a document


class _Seen(NamedTuple):
    node: Node
    sight: Sight


def _spans(text: str, root: Node) -> set[tuple[int, int]]:
    """Where characters are hidden. Aliases lead back to where the text stands, each once."""
    found: set[tuple[int, int]] = set()
    sight = Sight.TOP
    if root.id == _MAPPING:
        keys = {str(key.value).lower() for key, _ in root.value if key.id == _SCALAR}
        sight = Sight.TABLE if keys & _TABLE else Sight.TOP
    waiting = [_Seen(root, sight)]
    seen: set[tuple[int, Sight]] = set()
    while waiting:
        node, sight = waiting.pop()
        if (id(node), sight) in seen:
            continue
        seen.add((id(node), sight))
        if sight in (Sight.LOGIN, Sight.KIND, Sight.SECRET):
            # `!hunter2` and `&hunter2` without quotes are a tag and an anchor of nothing.
            start = node.start_mark.index
            found.add((start, _PROPERTIES.match(text, start).end()))  # type: ignore[union-attr]
        if node.id == _MAPPING:
            for key, value in node.value:
                waiting += _entry(text, key, value, sight, found)
        elif node.id == _SCALAR:
            found |= _scalar_spans(text, node, sight)
        else:
            waiting += [_Seen(item, sight) for item in node.value]
    return found


def _entry(
    text: str, key: Node, value: Node, sight: Sight, found: set[tuple[int, int]]
) -> Sequence[_Seen]:
    if key.id != _SCALAR:
        return (_Seen(key, sight), _Seen(value, sight))
    name = str(key.value)
    merges = name == "<<"
    inner = sight if merges else below(sight, name)
    start, end = key.start_mark.index, key.end_mark.index
    has_value = value.start_mark.index != value.end_mark.index
    # A block ends where the next key begins, far from its last comment.
    ends_here = value.id == _SCALAR or getattr(value, "flow_style", False)
    if ends_here and (sight is Sight.LOGIN or inner in _COMMENTED):
        # The end of a value that is not there is that of the blank before the next key.
        found |= _comment_after(text, value.end_mark.index if has_value else end)
    hidden = None if merges else hidden_in_key(sight, name, has_value)
    if hidden is not None:
        found.add((start + hidden[0], end))
    return (_Seen(value, inner),)


def _scalar_spans(text: str, node: Node, sight: Sight) -> set[tuple[int, int]]:
    start, end = node.start_mark.index, node.end_mark.index
    source, value = text[start:end], str(node.value)
    hidden = hidden_parts(sight, value)
    if not hidden:
        return set()
    if hidden == [(0, len(value))]:
        if source[:1] in ("'", '"') and source[-1:] == source[:1]:
            return {(start + 1, end - 1)}
        return {(start, end)}
    # Escapes and anchors move what is hidden: what cannot be found as it is hides the whole.
    at = source.find(value)
    if at < 0:
        return {(start, end)}
    return {(start + at + first, start + at + last) for first, last in hidden}


def _comment_after(text: str, end: int) -> set[tuple[int, int]]:
    """A comment behind a secret's value, and those on lines of their own below it: often the value
    of yesterday, or what was meant to be the value and is none for its `#`.
    """
    found = set()
    stop = _LINE_END.search(text, end)
    line = text[end : stop.start() if stop else len(text)]
    at = line.find("#")
    if at >= 0 and "\n" not in text[end - 1 : end]:
        found.add((end + at, end + len(line)))
    below = stop.end() if stop else len(text)
    while comment := _COMMENT_LINE.match(text, below):
        found.add(comment.span(1))
        below = comment.end()
    return found


# By words, where there is no document

_TOP_KEY = re.compile(r"[A-Za-z][\w-]*\s*:(?=\s|\Z)")
_KEY = re.compile(r"\s*(?:- +)*[\"']?[\w-]+[\"']?\s*:(?=\s|\Z)")


def _redacted_blindly(text: str) -> list[str]:
    """Of every line from one that speaks of a secret on, to the next key at the left margin, only
    the key is shown, and that only where it is what speaks.
    """
    shown: list[str] = []
    secretive = False
    for line in _LINE_END.split(text):
        if _TOP_KEY.match(line):
            secretive = False
        secretive = secretive or any(_speaks(word) for word in _WORD.findall(line))
        key = _KEY.match(line)
        end = key.end() if key and _speaks(key[0].strip(" \t-\"':")) else 0
        at = line.rfind("@")
        if not secretive and (at < 0 or ":" not in line[:at]):
            end = len(line)
        shown.append(line[:end] + re.sub(r"\S", "*", line[end:]))
    return shown


def _speaks(word: str) -> bool:
    """Whether a secret may follow. Words of a file's length are not compared."""
    return len(word) < 40 and (is_secret_key(word) or by_name(word.lower()) is Sight.LOGIN)
