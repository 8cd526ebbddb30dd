"""One glob over one segment or tag: its parts, how it is compiled, what it matches.

Owns the glob's grammar once it is known to be good (`pattern.py` refuses the others). Does not own
how two globs compare (`languages.py`) or what a pattern of several segments is (`pattern.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

REMEMBERED = 65_536  # globs and answers about them; a few hundred bytes each
# Every character that a name, a tag or a namespace may have, those that read best in a sample
# first. `/` is not one: a glob stays within its segment.
CHARACTERS = "xyzabcdefghijklmnopqrstuvw0123456789-_ABCDEFGHIJKLMNOPQRSTUVWXYZ.:"
_RANK = {character: rank for rank, character in enumerate(CHARACTERS)}
WHOLE_RUN = "**"
RUN = "*"
_CLASS_TEXT = re.compile(r"\[[^]]*\]")

Characters = frozenset[str]  # what may stand in one place
ANY: Characters = frozenset(CHARACTERS)


@dataclass(frozen=True, slots=True)
class Glob:
    """A compiled glob: what stands before its first `*`, between its `*`, and after its last.

    `parts` is all of it in order, with RUN for each `*`; without a `*`, `head` is all of it. What
    takes some text at least, as a `*` alone does, has that many places before its `*`. `prefix` and
    `suffix` are the text that every match has there, `named` the characters that it tells apart
    from others, `shortest` a match in which each `*` takes nothing.
    """

    parts: tuple[Characters | str, ...]
    head: tuple[Characters, ...]
    middles: tuple[tuple[Characters, ...], ...]
    tail: tuple[Characters, ...]
    has_run: bool
    prefix: str
    suffix: str
    named: Characters
    shortest: str
    expression: re.Pattern[str]

    def matches(self, text: str) -> bool:
        """Whether the glob takes the whole text."""
        return self.expression.fullmatch(text) is not None


@lru_cache(REMEMBERED)
def compiled(glob: str) -> Glob:
    """The glob in parts, the same for globs that differ in the order of `*` and `?` only."""
    parts = _parts(glob)
    if parts == [RUN]:
        parts = [ANY, RUN]  # a segment is never empty
    blocks: list[list[Characters]] = [[]]
    for part in parts:
        if isinstance(part, str):
            blocks.append([])
        else:
            blocks[-1].append(part)
    head, *others = (tuple(block) for block in blocks)
    tail = others.pop() if others else ()
    places = [part for part in parts if isinstance(part, frozenset)]
    few = (place if len(place) * 2 <= len(ANY) else ANY - place for place in places)
    return Glob(
        parts=tuple(parts),
        head=head,
        middles=tuple(others),
        tail=tail,
        has_run=len(blocks) > 1,
        prefix=_text(head),
        suffix=_text(reversed(tail if len(blocks) > 1 else head))[::-1],
        named=frozenset().union(*few),
        shortest="".join(map(pick, places)),
        expression=_expression(head, others, tail, has_run=len(blocks) > 1),
    )


def _parts(glob: str) -> list[Characters | str]:
    """One set a place, RUN for a `*`; in a run of `*` and `?` the places come first."""
    parts: list[Characters | str] = []
    position = 0
    while position < len(glob):
        character = glob[position]
        position += 1
        if character == "*":
            if parts[-1:] != [RUN]:
                parts.append(RUN)
        elif character == "?":
            parts.insert(len(parts) - (parts[-1:] == [RUN]), ANY)
        elif character == "[":
            end = glob.index("]", position)
            parts.append(_members(glob[position:end]))
            position = end + 1
        else:
            parts.append(frozenset(character))
    return parts


def _members(text: str) -> Characters:
    negated = text.startswith("!")
    items = text[1:] if negated else text
    characters: set[str] = set()
    position = 0
    while position < len(items):
        first = last = items[position]
        if items[position + 1 : position + 2] == "-" and position + 2 < len(items):
            last = items[position + 2]
            position += 2
        position += 1
        characters.update(chr(code) for code in range(ord(first), ord(last) + 1))
    return ANY - characters if negated else ANY & characters  # `[A-z]` spans more than names have


def _text(places: Iterable[Characters]) -> str:
    """The text of the first places, as far as only one text fits."""
    found = ""
    for place in places:
        if len(place) != 1:
            break
        found += next(iter(place))
    return found


def _expression(
    head: Sequence[Characters],
    middles: Sequence[Sequence[Characters]],
    tail: Sequence[Characters],
    *,
    has_run: bool,
) -> re.Pattern[str]:
    text = _places(head)
    for middle in middles:
        # The leftmost place is as good as any other: never look back into it.
        text += f"(?>[^/]*?{_places(middle)})"
    if has_run:
        text += f"[^/]*{_places(tail)}"
    return re.compile(text)


def _places(places: Sequence[Characters]) -> str:
    return "".join(
        "[^/]"
        if place == ANY
        else re.escape(next(iter(place)))
        if len(place) == 1
        else f"[{re.escape(''.join(sorted(place)))}]"
        for place in places
    )


def pick(place: Characters) -> str:
    """The member that reads best in a sample."""
    return next(iter(place)) if len(place) == 1 else min(place, key=_RANK.__getitem__)


def normalised(glob: str) -> str:
    """The glob with each class of one character as that character: `[n]ginx` is `nginx`."""

    def plain(match: re.Match[str]) -> str:
        members = _members(match[0][1:-1])
        return next(iter(members)) if len(members) == 1 else match[0]

    return _CLASS_TEXT.sub(plain, glob)


@lru_cache(REMEMBERED)
def is_literal(glob: str) -> bool:
    """Whether the glob matches one text only: itself."""
    return not any(character in glob for character in "*?[")


def literal_count(glob: str) -> int:
    """How many characters of the glob stand for themselves."""
    return sum(character not in "*?" for character in _CLASS_TEXT.sub("?", glob))
