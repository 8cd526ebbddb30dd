"""The exact answer about patterns as languages, where a shorter way does not know it.

Owns automata over characters and the search for a text that one pattern has and others have not.
Does not own when that search is needed (`languages.py`): it is a thousand times slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache

from routerd.routing.globs import ANY, CHARACTERS, REMEMBERED, WHOLE_RUN, Characters, compiled

_SLASH: Characters = frozenset("/")


class _Automaton:
    """A nondeterministic automaton without empty moves but those of runs; state 0 is the start."""

    def __init__(self) -> None:
        self.moves: list[list[tuple[Characters, int]]] = [[]]
        self.empty: list[list[int]] = [[]]
        self.accepting = 0
        self.named: set[str] = set()

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
        return self.closure(
            target
            for state in states
            for wanted, target in self.moves[state]
            if character in wanted
        )


@lru_cache(REMEMBERED // 16)
def _compile(segments: tuple[str, ...]) -> _Automaton:
    automaton = _Automaton()
    state = 0
    for position, segment in enumerate(segments):
        is_last = position == len(segments) - 1
        if segment == WHOLE_RUN:
            state = _add_run(automaton, state, at_end=is_last)
            continue
        state = _add_segment(automaton, state, segment)
        if not is_last:
            following = automaton.add_state()
            automaton.moves[state].append((_SLASH, following))
            state = following
    automaton.accepting = state
    return automaton


def _add_run(automaton: _Automaton, start: int, *, at_end: bool) -> int:
    """Zero or more segments, each with the `/` after it; at the end one or more, with none."""
    inside = _add_segment(automaton, start, "*")
    automaton.moves[inside].append((_SLASH, start))
    if at_end:
        return inside
    after = automaton.add_state()
    automaton.empty[start].append(after)
    return after


def _add_segment(automaton: _Automaton, state: int, glob: str) -> int:
    whole = compiled(glob)
    automaton.named |= whole.named
    for part in whole.parts:
        following = automaton.add_state()
        if isinstance(part, str):
            automaton.empty[state].append(following)
            automaton.moves[following].append((ANY, following))
        else:
            automaton.moves[state].append((part, following))
        state = following
    return state


def counterexample(outers: Sequence[tuple[str, ...]], inner: tuple[str, ...]) -> str | None:
    """A shortest text that `inner` matches and none of `outers` does, segments joined by `/`;
    None where they have it all between them.
    """
    one = _compile(inner)
    others = [_compile(outer) for outer in outers]
    named = one.named.union(*(other.named for other in others))
    # One character stands for all those that no pattern tells apart.
    rest = next((c for c in CHARACTERS if c not in named), None)
    alphabet = [*([] if rest is None else [rest]), *sorted(named), "/"]
    start = (one.closure([0]), tuple(other.closure([0]) for other in others))
    seen = {start}
    waiting = deque([(start, "")])
    while waiting:
        (inside, around), text = waiting.popleft()
        if one.accepting in inside and not any(
            other.accepting in states for other, states in zip(others, around, strict=True)
        ):
            return text
        for character in alphabet:
            following = one.step(inside, character)
            if not following:
                continue
            reached = tuple(
                other.step(states, character) if states else states
                for other, states in zip(others, around, strict=True)
            )
            if (following, reached) not in seen:
                seen.add((following, reached))
                waiting.append(((following, reached), text + character))
    return None
