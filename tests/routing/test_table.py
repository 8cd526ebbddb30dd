"""table: config-language.md 2 and 3, a sentence a test."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import permutations

import pytest

from routerd.oci.errors import Code
from routerd.oci.reference import Namespace, Reference, Repository
from routerd.routing.decision import Decision, Destination
from routerd.routing.explain import explain_reference
from routerd.routing.order import in_order
from routerd.routing.policy import (
    ANONYMOUS,
    LOOPBACK,
    Action,
    CacheSettings,
    Caller,
    Fallback,
    Origin,
    Setting,
)
from routerd.routing.table import RouteTable

from .conftest import MakeTable, rule

LOCAL = Caller(ip_address("127.0.0.1"))
FAR = Caller(ip_address("203.0.113.7"))
DIGEST = "@sha256:" + "0" * 64


def decide(
    table: RouteTable, reference: str, action: Action = Action.PULL, caller: Caller = LOCAL
) -> Decision:
    return table.decide(Reference.parse(reference), action, caller)


def endpoints(decision: Decision) -> list[str]:
    return [step.endpoint for step in decision.steps]


def refused(decision: Decision) -> tuple[Code, str]:
    assert decision.refusal is not None
    assert decision.steps == ()
    return decision.refusal.code, decision.refusal.message


STRAWMAN = {
    "library/*": "hub",
    "mycorp/product": "production",
    "mycorp/product:latest": "local",
}


def test_the_strawman_sends_each_name_where_it_says(table: MakeTable) -> None:
    t = table(STRAWMAN)
    assert endpoints(decide(t, "nginx:1")) == ["hub"]
    assert endpoints(decide(t, "mycorp/product:1")) == ["production"]
    assert endpoints(decide(t, "mycorp/product:latest")) == ["local"]
    assert endpoints(decide(t, "mycorp/product" + DIGEST)) == ["production", "local"]


def test_no_route_no_service(table: MakeTable) -> None:
    code, message = refused(decide(table(STRAWMAN), "foo/bar:1"))
    assert (code, message) == (Code.NAME_UNKNOWN, "no route matches docker.io/foo/bar")


@pytest.mark.parametrize(
    ("narrower", "wider"),
    [
        ("app:v[0-9]*", "app:v*"),
        ("app:1", "app"),
        ("app:*", "app"),
        ("library/nginx", "library/*"),
        ("library/*", "**"),
        ("**", "*"),
        ("*.eu.corp.example/**", "*.corp.example/**"),
        ("a/b/**", "a/**"),
        ("ghcr.io/a", "*.io/a"),  # exact namespace over wildcard
        ("x.y/a", "x.*/**"),
        ("a/*:latest", "a/**"),
        ("a/bcd*", "a/*x"),  # neither contains the other: more literal characters
        ("a/b*:1", "a/*b:*"),  # exact tag over tag glob
    ],
)
def test_the_narrower_route_comes_first_whatever_the_order(
    table: MakeTable, narrower: str, wider: str
) -> None:
    for texts in ((narrower, wider), (wider, narrower)):
        routes = table(dict.fromkeys(texts, "hub")).routes
        assert [r.pattern.text for r in in_order(routes)] == [narrower, wider]


def test_the_order_does_not_depend_on_the_order_in_the_file(table: MakeTable) -> None:
    texts = ["a/*", "a/**", "a/b*", "a/*b", "a/b:1", "a/*:1", "**"]
    found = {
        tuple(r.pattern.text for r in in_order(table(dict.fromkeys(some, "hub")).routes))
        for some in list(permutations(texts))[::97]
    }
    assert len(found) == 1
    [order] = found
    assert order.index("a/b:1") < order.index("a/*:1") < order.index("a/*") < order.index("**")


def test_lower_routes_do_not_count_for_anything(table: MakeTable) -> None:
    t = table(
        {"mycorp/secret": "production", "*": "hub"},
        allow={"*": {Action.PULL: [LOOPBACK]}},
        cache={"*": CacheSettings(ttl=Setting(5.0, Origin("p.yaml", 2)))},
    )
    found = decide(t, "mycorp/secret" + DIGEST, caller=FAR)
    assert endpoints(found) == ["production"]
    assert found.steps[0].cache.ttl.value is None


def test_settings_cascade_and_destinations_do_not(table: MakeTable) -> None:
    line = Origin("p.yaml", 9)
    endpoint = CacheSettings(ttl=Setting(900.0, line), stale_if_error=Setting(7.0, line))
    t = table(
        {"mycorp/**": ["local", "production"], "mycorp/**:latest": None},
        cache={"mycorp/**:latest": CacheSettings(ttl=Setting(30.0, Origin("p.yaml", 2)))},
        allow={"mycorp/**": {Action.PULL: [LOOPBACK]}},
        endpoints={"production": rule("production", (Action.PULL,), cache=endpoint)},
    )
    latest, other = decide(t, "mycorp/a:latest"), decide(t, "mycorp/a:1")
    assert endpoints(latest) == endpoints(other) == ["local", "production"]
    assert (latest.steps[1].cache.ttl.value, other.steps[1].cache.ttl.value) == (30.0, 900.0)
    assert latest.steps[1].cache.stale_if_error.value == 7.0
    assert latest.steps[0].cache.stale_if_error.value == 14 * 86400
    # nobody loses an `allow` by adding a line
    assert refused(decide(t, "mycorp/a:latest", caller=FAR))[0] is Code.DENIED
    # the settings of a tag do not count for digests
    assert decide(t, "mycorp/a" + DIGEST).steps[1].cache.ttl.value == 900.0


def test_deny_says_its_reason_for_everything(table: MakeTable) -> None:
    t = table({"legacy/**": Destination((), deny="moved to ghcr.io/mycorp"), "**": "other"})
    for reference in ("legacy/a:1", "legacy/a" + DIGEST):
        for action in Action:
            code, message = refused(decide(t, reference, action))
            assert code is Code.DENIED
            assert "moved to ghcr.io/mycorp" in message


def test_a_denied_tag_leaves_the_digests_of_its_repository(table: MakeTable) -> None:
    t = table({"a/b": "hub", "a/b:bad": Destination((), deny="no")})
    assert refused(decide(t, "a/b:bad"))[0] is Code.DENIED
    assert endpoints(decide(t, "a/b" + DIGEST)) == ["hub"]


def test_a_tag_allowed_beside_a_deny_is_pulled_and_pushed_whole(table: MakeTable) -> None:
    t = table({"a/b": Destination((), deny="only ok"), "a/b:ok": "local"})
    repository = Repository.parse("docker.io", "a/b")
    assert endpoints(decide(t, "a/b:ok")) == ["local"]
    assert endpoints(decide(t, "a/b" + DIGEST)) == ["local"]
    assert endpoints(t.decide_repository(repository, Action.PULL, LOCAL)) == ["local"]
    assert endpoints(t.decide_repository(repository, Action.PUSH, LOCAL)) == ["local"]
    assert endpoints(decide(t, "a/b:ok", Action.PUSH)) == ["local"]
    for action in (Action.PULL, Action.PUSH):
        assert refused(decide(t, "a/b:other", action))[0] is Code.DENIED


def test_digests_go_through_the_tagless_destination_first_and_each_place_once(
    table: MakeTable,
) -> None:
    t = table({"a/b": ["production", "hub"], "a/b:x": ["local", "hub"], "a/b:y*": "local"})
    assert endpoints(decide(t, "a/b" + DIGEST)) == ["production", "hub", "local"]


def test_without_a_tagless_route_digests_follow_the_tags(table: MakeTable) -> None:
    t = table({"a/b:x": "local"})
    assert endpoints(decide(t, "a/b" + DIGEST)) == ["local"]
    assert refused(decide(t, "a/b:y"))[0] is Code.NAME_UNKNOWN


def test_steps_that_the_caller_may_not_pull_are_skipped(table: MakeTable) -> None:
    t = table({"a/b": "hub", "a/b:x": "local"}, allow={"a/b": {Action.PULL: [LOOPBACK]}})
    assert endpoints(decide(t, "a/b" + DIGEST, caller=LOCAL)) == ["hub", "local"]
    assert refused(decide(t, "a/b" + DIGEST, caller=FAR))[0] is Code.DENIED
    allow = {"a/b": {Action.PULL: [LOOPBACK]}, "a/b:x": {Action.PULL: [ANONYMOUS]}}
    t = table({"a/b": "hub", "a/b:x": "local"}, allow=allow)
    assert endpoints(decide(t, "a/b" + DIGEST, caller=FAR)) == ["local"]


def test_fallback_on_comes_with_the_route(table: MakeTable) -> None:
    where = Destination(("local", "hub"), frozenset({Fallback.UNAVAILABLE}))
    [step, _] = decide(table({"a/b": where}), "a/b:1").steps
    assert step.route.destination is where


def test_strip_takes_the_prefix_from_the_name_there(table: MakeTable) -> None:
    t = table({"mycorp/**": Destination(("hub",), strip="mycorp/")})
    [step] = decide(t, "mycorp/a/b:1").steps
    assert step.repository == Repository.parse("docker.io", "a/b")


# Writing


def test_push_goes_to_the_only_endpoint_that_takes_it(table: MakeTable) -> None:
    t = table({"a/**": ["hub", "local"]})
    assert endpoints(decide(t, "a/b:1", Action.PUSH)) == ["local"]
    uploads = t.decide_repository(Repository.parse("docker.io", "a/b"), Action.PUSH, LOCAL)
    assert endpoints(uploads) == ["local"]


def test_push_to_chooses_among_several(table: MakeTable) -> None:
    t = table({"a/**": Destination(("local", "other"), push_to="other")})
    assert endpoints(decide(t, "a/b:1", Action.PUSH)) == ["other"]
    t = table({"a/**": ["local", "other"]})
    assert len(t.push_targets(Repository.parse("docker.io", "a/b"), Action.PUSH)) == 2
    assert refused(decide(t, "a/b:1", Action.PUSH))[0] is Code.DENIED


def test_a_read_only_route_is_405_and_says_whose_line_that_is(table: MakeTable) -> None:
    code, message = refused(decide(table(STRAWMAN), "nginx:1", Action.PUSH))
    assert code is Code.UNSUPPORTED
    assert "endpoint hub allows [pull]" in message
    assert "p.yaml:100" in message


def test_a_manifest_whose_tag_goes_elsewhere_is_refused_naming_the_route(table: MakeTable) -> None:
    t = table(STRAWMAN)
    uploads = t.decide_repository(
        Repository.parse("docker.io", "mycorp/product"), Action.PUSH, LOCAL
    )
    assert endpoints(uploads) == ["local"]
    assert endpoints(decide(t, "mycorp/product:latest", Action.PUSH)) == ["local"]
    code, message = refused(decide(t, "mycorp/product:1", Action.PUSH))
    assert code is Code.DENIED
    assert "'mycorp/product' (p.yaml:2)" in message


def test_push_is_for_loopback_unless_said_and_the_message_has_the_line(table: MakeTable) -> None:
    t = table({"a/**": "local"})
    code, message = refused(decide(t, "a/b:1", Action.PUSH, FAR))
    assert code is Code.DENIED
    assert 'allow: {push: ["net:203.0.113.7"]}' in message
    assert "'a/**' (p.yaml:1)" in message
    open_to_all = table({"a/**": "local"}, allow={"a/**": {Action.PUSH: [ANONYMOUS]}})
    assert endpoints(decide(open_to_all, "a/b:1", Action.PUSH, FAR)) == ["local"]


def test_delete_is_an_action_of_its_own(table: MakeTable) -> None:
    t = table({"a/**": "local", "b/**": "other"})
    assert refused(decide(t, "a/x:1", Action.DELETE))[0] is Code.UNSUPPORTED
    assert endpoints(decide(t, "b/x:1", Action.DELETE)) == ["other"]
    assert refused(decide(t, "b/x:1", Action.DELETE, FAR))[0] is Code.DENIED


def test_a_route_never_widens_an_endpoints_actions(table: MakeTable) -> None:
    t = table({"a/**": "hub"}, allow={"a/**": {Action.PUSH: [ANONYMOUS]}})
    assert refused(decide(t, "a/b:1", Action.PUSH))[0] is Code.UNSUPPORTED


# Namespaces


def test_the_key_for_everything_asks_a_remote_only_for_its_own_namespace(table: MakeTable) -> None:
    hub = rule("hub", (Action.PULL,), namespace=Namespace("docker.io"))
    t = table({"*": ["local", "hub"]}, endpoints={"hub": hub})
    assert endpoints(decide(t, "nginx:1")) == ["local", "hub"]
    assert endpoints(decide(t, "ghcr.io/a/b:1")) == ["local"]


def test_a_configured_namespace_is_one_that_a_route_names(table: MakeTable) -> None:
    t = table({"*": "hub", "ghcr.io/**": "hub", "*.corp.example/**": "hub"})
    assert t.is_configured(Namespace("ghcr.io"))
    assert t.is_configured(Namespace("eu.corp.example"))
    assert not t.is_configured(Namespace("quay.io"))
    assert not t.is_configured(Namespace("docker.io"))


def test_a_decision_is_total_and_says_one_thing(table: MakeTable) -> None:
    t = table({**STRAWMAN, "a/**": ["local", "other"], "b/**": Destination((), deny="no")})
    for reference in (
        "nginx",
        "mycorp/product",
        "a/x",
        "b/x",
        "quay.io/x",
        "mycorp/product" + DIGEST,
    ):
        for action in Action:
            for caller in (LOCAL, FAR, Caller(None)):
                found = decide(t, reference, action, caller)
                assert (found.refusal is None) == bool(found.steps)


def test_explain_says_of_every_route_why_it_won_or_lost(table: MakeTable) -> None:
    t = table({**STRAWMAN, "mycorp/**:latest": None, "**": "hub"})
    found = explain_reference(t, Reference.parse("mycorp/product:latest"), Action.PULL, LOCAL)
    assert [(row.route.pattern.text, row.note) for row in found.rows] == [
        ("mycorp/product:latest", "wins"),
        ("mycorp/product", "after the one that wins"),
        ("mycorp/**:latest", "after 2"),
        ("**", "contains 2"),
    ]
    assert [step.endpoint for step in found.by_digest] == ["production", "local"]
    assert endpoints(found.push) == ["local"]


def test_explain_says_why_a_matching_route_leads_nowhere(table: MakeTable) -> None:
    hub = rule("hub", (Action.PULL,), namespace=Namespace("docker.io"))
    t = table({"*": "hub"}, endpoints={"hub": hub})
    found = explain_reference(t, Reference.parse("ghcr.io/foo/bar"), Action.PULL, LOCAL)
    assert [row.note for row in found.rows] == ["hub has only names of docker.io"]


def test_explain_says_of_a_deny_that_digests_pass_it(table: MakeTable) -> None:
    t = table({"a/b": Destination((), deny="only ok"), "a/b:ok": "local"})
    found = explain_reference(t, Reference.parse("a/b" + DIGEST), Action.PULL, LOCAL)
    assert [row.note for row in found.rows] == [
        "not for sha256:" + "0" * 64,
        "denies, but not what the routes of tags above lead to",
    ]
    assert [step.endpoint for step in found.steps] == ["local"]
