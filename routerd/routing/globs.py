"""Globs as languages: what one matches, whether one holds another, what two have in common.

Owns the decision procedures over patterns of segments. Does not own what a policy's pattern looks
like (`pattern.py`). A pattern becomes a small automaton over characters; containment and
intersection are searches over the product of two, with one character standing for all those that
neither pattern names. Both are exact.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_REMEMBERED = 65_536  # automata and answers kept; a few hundred bytes each
# Candidates for the character that stands for all others, those that read best in a sample first.
_OTHERS = "xyzabcdefghijklmnopqrstuvw0123456789-_ABCDEFGHIJKLMNOPQRSTUVWXYZ."
WHOLE_RUN = "**"
_CLASS_TEXT = re.compile(r"\[[^]]*\]")


@dataclass(frozen=True, slots=True)
class _Class:
    """A set of characters, or all but a set. `/` is never in it."""

    characters: frozenset[str]
    negated: bool = False

    def __contains__(self, character: str) -> bool:
        return character != "/" and (character in self.characters) is not self.negated


_ANY = _Class(frozenset(), negated=True)


class _Automaton:
    """A nondeterministic automaton without empty moves; state 0 is the start."""

    def __init__(self) -> None:
        self.moves: list[list[tuple[_Class | None, int]]] = [[]]  # None is the character `/`
        self.empty: list[list[int]] = [[]]
        self.accepting = 0
        self.literals: set[str] = set()

    def add_state(self) -> int:
        self.moves.append([])
        self.empty.append([])
        return len(self.moves) - 1

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        found = set(states)
        waiting = list(found)
        while waiting:
            for following in self.empty[waiting.pop()]:
                if following not in found:
                    found.add(following)
                    waiting.append(following)
        return frozenset(found)

    def step(self, states: Iterable[int], character: str) -> frozenset[int]:
        reached = {
            target
            for state in states
            for wanted, target in self.moves[state]
            if (character == "/" if wanted is None else character in wanted)
        }
        return self.closure(reached)


def tokens(glob: str) -> Sequence[_Class | str]:
    """The glob's parts: a class of characters for one character, "*" for any run of them."""
    parts: list[_Class | str] = []
    position = 0
    while position < len(glob):
        character = glob[position]
        position += 1
        if character == "*":
            if parts[-1:] != ["*"]:
                parts.append("*")
        elif character == "?":
            parts.append(_ANY)
        elif character == "[":
            end = glob.index("]", position)
            parts.append(_parse_class(glob[position:end]))
            position = end + 1
        else:
            parts.append(_Class(frozenset(character)))
    return parts


@lru_cache(_REMEMBERED)
def is_literal(glob: str) -> bool:
    """Whether the glob matches one text only: itself."""
    return not any(character in glob for character in "*?[")


def literal_count(glob: str) -> int:
    """How many characters of the glob stand for themselves."""
    return sum(character not in "*?" for character in _CLASS_TEXT.sub("?", glob))


def _parse_class(text: str) -> _Class:
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
    return _Class(frozenset(characters), negated)


@lru_cache(_REMEMBERED)
def _compile(segments: tuple[str, ...], full_runs: bool = False) -> _Automaton:
    """The automaton of a pattern; with `full_runs`, of one whose every `*` takes something."""
    automaton = _Automaton()
    state = 0
    for position, segment in enumerate(segments):
        is_last = position == len(segments) - 1
        if segment == WHOLE_RUN:
            state = _add_run(automaton, state, at_end=is_last)
            continue
        state = _add_segment(automaton, state, segment, full_runs)
        if not is_last:
            following = automaton.add_state()
            automaton.moves[state].append((None, following))
            state = following
    automaton.accepting = state
    return automaton


def _add_run(automaton: _Automaton, start: int, *, at_end: bool) -> int:
    """Zero or more segments, each with the `/` after it; at the end one or more, with none."""
    inside = _add_segment(automaton, start, "*", True)
    if at_end:
        automaton.moves[inside].append((None, start))
        return inside
    automaton.moves[inside].append((None, start))
    after = automaton.add_state()
    automaton.empty[start].append(after)
    return after


def _add_segment(automaton: _Automaton, state: int, glob: str, full_runs: bool) -> int:
    for part in tokens(glob):
        following = automaton.add_state()
        if isinstance(part, str):
            # A run of characters may be empty, but a segment may not.
            automaton.moves[following].append((_ANY, following))
            automaton.moves[state].append((_ANY, following))
            if glob.strip("*") and not full_runs:
                automaton.empty[state].append(following)
        else:
            automaton.moves[state].append((part, following))
            automaton.literals |= part.characters
        state = following
    return state


def _alphabet(first: _Automaton, second: _Automaton) -> Sequence[str]:
    named = first.literals | second.literals
    other = next((c for c in _OTHERS if c not in named), None)
    return [*([other] if other is not None else []), *sorted(named), "/"]


def contains(outer: tuple[str, ...], inner: tuple[str, ...]) -> bool:
    """Whether every run of segments that `inner` matches is matched by `outer` too."""
    # What both begin with literally decides nothing, and without it thousands of teams' patterns
    # come down to a few that are remembered.
    common = 0
    for one, other in zip(outer, inner, strict=False):
        if not (is_literal(one) and is_literal(other)):
            break
        if one != other:
            return False
        common += 1
    outer, inner = outer[common:], inner[common:]
    if not outer or not inner:
        return not outer and not inner
    return outer == (WHOLE_RUN,) or outer == inner or _contains(outer, inner)


@lru_cache(_REMEMBERED)
def _contains(outer: tuple[str, ...], inner: tuple[str, ...]) -> bool:
    return counterexample(outer, inner) is None


def counterexample(outer: tuple[str, ...], inner: tuple[str, ...]) -> str | None:
    """A shortest text that `inner` matches and `outer` does not; None where there is none."""
    return _shortest(_compile(inner), _compile(outer), in_both=False)


@lru_cache(_REMEMBERED)
def intersection(first: tuple[str, ...], second: tuple[str, ...]) -> str | None:
    """A short text that both match, segments joined by `/`; None where there is none."""
    # A `*` that takes something makes a sample that reads like a name, so that is tried first.
    return _shortest(_compile(first, True), _compile(second, True), in_both=True) or _shortest(
        _compile(first), _compile(second), in_both=True
    )


def _shortest(one: _Automaton, two: _Automaton, *, in_both: bool) -> str | None:
    """A shortest text that `one` accepts and `two` does (`in_both`) or does not; None: no text."""
    alphabet = _alphabet(one, two)
    start = (one.closure([0]), two.closure([0]))
    seen = {start}
    waiting = deque([(start, "")])
    while waiting:
        (in_one, in_two), text = waiting.popleft()
        if one.accepting in in_one and (two.accepting in in_two) is in_both:
            return text
        for character in alphabet:
            pair = (one.step(in_one, character), two.step(in_two, character))
            if pair[0] and (pair[1] or not in_both) and pair not in seen:
                seen.add(pair)
                waiting.append((pair, text + character))
    return None
