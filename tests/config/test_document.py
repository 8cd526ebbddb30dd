"""document.load: YAML's traps end in a diagnostic at the right place, never in a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.config.document import Unreadable, load


def write(tmp_path: Path, data: str | bytes) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("text", "code", "line", "words"),
    [
        ("", "syntax", 0, "empty"),
        ("# only a comment\n", "syntax", 0, "empty"),
        ("- a\n- b\n", "syntax", 1, "mapping"),
        ("a: 1\n---\nb: 2\n", "syntax", 2, "another document"),
        ("routes:\n  */x: hub\n", "syntax", 2, 'quote it: "*/x"'),
        ("a: [1\nb: 2\n", "syntax", 2, ""),
        ("a: {b: c: d}\n", "syntax", 1, "expected ',' or '}', but got ':'"),
        ("a: !python/object:os.system x\n", "syntax", 1, "means nothing"),
        ("routes: {**: hub}\n", "syntax", 1, 'quote it: "**"'),
        ("routes: {*/x: hub}\n", "syntax", 1, 'quote it: "*/x"'),
        ("routes: [**]\n", "syntax", 1, "no anchor here"),
        ("a: !unknown {b: c}\n", "syntax", 1, "means nothing"),
        ("a: !unknown [b]\n", "syntax", 1, "means nothing"),
        ("!unknown {a: b}\n", "syntax", 1, "means nothing"),
        ("a: &a {b: c, <<: *a}\n", "syntax", 1, "merges itself"),
        ("a: 1\nb: {x: 1, x: 2}\n", "duplicate-key", 2, "'x'"),
        ("? [a, b]\n: 1\n", "syntax", 1, "a key is a text"),
        ("[" * 10_000, "syntax", 1, "nested"),
        ("- " * 10_000, "syntax", 1, "nested"),
        ("{a: " * 10_000, "syntax", 1, "nested"),
    ],
)
def test_a_file_that_is_no_policy_says_where_and_why(
    tmp_path: Path, text: str, code: str, line: int, words: str
) -> None:
    found = load(write(tmp_path, text)).problems
    assert [(problem.code, problem.mark.line) for problem in found] == [(code, line)]
    assert words in found[0].message


@pytest.mark.parametrize("data", [b"\xff\xfe\x00a", b"caf\xe9: 1\n", b"a: \x00\n"])
def test_a_file_that_is_not_utf8_text_is_one_diagnostic(tmp_path: Path, data: bytes) -> None:
    assert [p.code for p in load(write(tmp_path, data)).problems] == ["syntax"]


def test_a_file_that_is_not_there_or_a_directory_is_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(Unreadable):
            load(path)


def test_duplicate_keys_do_not_print_their_values(tmp_path: Path) -> None:
    text = "auth:\n  password: one-secret\n  password: other-secret\n"
    [problem] = load(write(tmp_path, text)).problems
    assert "secret" not in problem.message


def test_a_billion_laughs_is_cut_short(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for n in range(1, 10):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    [problem] = load(write(tmp_path, "\n".join(lines))).problems
    assert "aliases" in problem.message


def test_merges_of_merges_cost_what_they_bring(tmp_path: Path) -> None:
    lines = ["m0: &m0 {a: 1}"]
    for n in range(1, 60):
        lines.append(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}")
    document = load(write(tmp_path, "\n".join(lines)))
    assert not document.problems
    assert document.values["m59"] == {"a": 1}


def test_merges_that_bring_too_much_are_cut_short(tmp_path: Path) -> None:
    lines = [f"m0: &m0 {{{', '.join(f'k{n}: 1' for n in range(1000))}}}"]
    for n in range(1, 60):
        lines.append(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}")
    [problem] = load(write(tmp_path, "\n".join(lines))).problems
    assert "aliases" in problem.message


@pytest.mark.parametrize(
    "text",
    [
        "a: {" + ", ".join(f"k{n}: 1" for n in range(300)) + "}\n",
        "a:\n" + "".join(f'  k{n}: "see note [1"\n' for n in range(60)),
        "{a: " * 45 + "1" + "}" * 45,
    ],
)
def test_what_is_long_is_not_deep(tmp_path: Path, text: str) -> None:
    assert not load(write(tmp_path, text)).problems


def test_what_is_merged_first_has_its_values_and_its_places(tmp_path: Path) -> None:
    text = "x-a: &a {k: one}\nx-b: &b {k: two, l: three}\nc: {<<: [*a, *b]}\n"
    document = load(write(tmp_path, text))
    assert document.values["c"] == {"k": "one", "l": "three"}
    assert document.key(("c", "k")).line == document.value(("c", "k")).line == 1
    assert document.key(("c", "l")).line == 2


def test_numbers_keep_what_was_written(tmp_path: Path) -> None:
    document = load(write(tmp_path, "a: 1.10\nb: 0123\nc: yes\nd: 2027-03-31\ne: true\n"))
    assert document.values == {"a": 1.1, "b": 123, "c": "yes", "d": "2027-03-31", "e": True}
    assert document.texts["a",] == "1.10"
    assert document.texts["b",] == "0123"


def test_merged_keys_give_way_to_the_mappings_own(tmp_path: Path) -> None:
    text = "x-base: &base {ttl: 1m, store: local}\ncache:\n  ttl: 5m\n  <<: *base\n"
    document = load(write(tmp_path, text))
    assert document.values["cache"] == {"ttl": "5m", "store": "local"}
    assert document.key(("cache", "store")).line == 1
    assert document.key(("cache", "ttl")).line == 3


def test_every_key_and_value_has_its_place(tmp_path: Path) -> None:
    document = load(write(tmp_path, "server:\n  listen: [a, bb]\n"))
    mark = document.value(("server", "listen", 1))
    assert (mark.line, mark.column, mark.length) == (2, 15, 2)
    assert document.key(("server", "nothing", "at", "all")).line == 1


@given(st.text(alphabet=st.sampled_from("ab:*&!-[]{}<>|?\"'\n #%@`$,1.~=\t"), max_size=60))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_document_or_diagnostics(tmp_path: Path, text: str) -> None:
    document = load(write(tmp_path, text))
    assert (
        document.values
        or document.problems
        or text.partition("#")[0].split() in (["{", "}"], ["{}"])
    )
