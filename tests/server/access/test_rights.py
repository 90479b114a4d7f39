"""Roles on patterns: what they allow, what they contain, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.cases import each
from tensorus_server.access.rights import (
    EVERYTHING,
    LOCAL_CALLER,
    Caller,
    Grant,
    Rights,
    Role,
    Scope,
    require_pattern,
    require_principal,
)
from tensorus_server.errors import InvalidNameError, InvalidRequestError, PermissionDeniedError
from tensorus_server.limits import REQUEST_ID_BYTES_MAX

TRAINER = Caller("token:trainer")

NAMES = st.text("abc/*", min_size=1, max_size=6)
PATTERNS = st.one_of(NAMES, NAMES.map(lambda name: f"{name}*"), st.just("*"))
SCOPES = st.builds(Scope, st.sampled_from(Role), PATTERNS)


def rights(*scopes: Scope, principal: str = TRAINER.principal) -> Rights:
    return Rights(Grant(principal, scope) for scope in scopes)


class TestAllows:
    """What a grant allows."""

    def test_without_a_grant_nothing_is_allowed(self) -> None:
        assert not Rights().allows(TRAINER, Role.READER, "d")
        assert Rights().of(TRAINER) == []

    def test_a_server_that_authenticates_nobody_allows_everything(self) -> None:
        assert Rights().allows(LOCAL_CALLER, Role.ADMIN, EVERYTHING)
        assert Rights().of(LOCAL_CALLER) == [Scope(Role.ADMIN, EVERYTHING)]

    @each(
        ("pattern", "dataset", "expected"),
        [
            ("team/a", "team/a", True),
            ("team/a", "team/ab", False),
            ("team/a", "team", False),
            ("team/*", "team/a", True),
            ("team/*", "team/a/b", True),
            ("team/*", "team", False),
            ("team/*", "teams/a", False),
            ("team*", "teams/a", True),
            ("*", "anything", True),
            ("*", EVERYTHING, True),
            ("team/*", EVERYTHING, False),
            ("Team/*", "team/a", False),
        ],
    )
    def test_a_pattern_matches_a_name_or_what_begins_so(self, pattern: str, dataset: str, *, expected: bool) -> None:
        assert rights(Scope(Role.READER, pattern)).allows(TRAINER, Role.READER, dataset) is expected

    def test_each_role_includes_those_before_it(self) -> None:
        for held in Role:
            for needed in Role:
                assert rights(Scope(held, "d")).allows(TRAINER, needed, "d") is (held >= needed)

    def test_a_grant_of_another_principal_counts_only_for_its_groups(self) -> None:
        others = rights(Scope(Role.WRITER, "d"), principal="group:ml")
        assert not others.allows(TRAINER, Role.READER, "d")
        assert others.allows(Caller("oidc:alice", ("group:ml",)), Role.WRITER, "d")

    def test_a_token_with_scopes_allows_at_most_these(self) -> None:
        granted = rights(Scope(Role.ADMIN, "team/*"))
        caller = Caller(TRAINER.principal, scopes=(Scope(Role.READER, "*"), Scope(Role.WRITER, "team/a")))
        assert granted.allows(caller, Role.READER, "team/b")
        assert granted.allows(caller, Role.WRITER, "team/a")
        assert not granted.allows(caller, Role.WRITER, "team/b")
        assert not granted.allows(caller, Role.ADMIN, "team/a")
        assert not granted.allows(caller, Role.READER, "other")

    def test_the_error_is_the_same_whether_a_dataset_exists(self) -> None:
        with pytest.raises(PermissionDeniedError, match="token:trainer is not writer of dataset d") as caught:
            Rights().require(TRAINER, Role.WRITER, "d")
        assert caught.value.facts == {"principal": "token:trainer", "role": "writer"}
        with pytest.raises(PermissionDeniedError, match="not admin of all datasets"):
            Rights().require(TRAINER, Role.ADMIN, EVERYTHING)


@given(SCOPES, SCOPES, NAMES, st.sampled_from(Role))
def test_what_a_scope_contains_it_allows(outer: Scope, inner: Scope, name: str, role: Role) -> None:
    if outer.contains(inner) and inner.allows(role, name):
        assert outer.allows(role, name)


@given(st.lists(SCOPES, max_size=3), st.lists(SCOPES, max_size=3), NAMES, st.sampled_from(Role))
def test_the_rights_that_are_shown_are_those_that_hold(
    granted: list[Scope], limits: list[Scope], name: str, role: Role
) -> None:
    caller = Caller(TRAINER.principal, scopes=tuple(limits))
    held = rights(*granted)
    assert held.allows(caller, role, name) == any(scope.allows(role, name) for scope in held.of(caller))


class TestSessions:
    """Requests are known under the name of whoever makes them."""

    def test_nobody_can_name_a_request_of_another(self) -> None:
        names = ("token:trainer2", "cert:trainer", "token:train", "token:trainer er", "cert:trainer er")
        callers = [TRAINER, *map(Caller, names)]
        named = {caller.session_of(request_id) for caller in callers for request_id in ("a", "er a", "2 a", "x" * 128)}
        assert len(named) == len(callers) * 4

    def test_a_name_is_never_too_long(self) -> None:
        caller = Caller("token:" + "n" * 250)
        assert len(caller.session_of("x" * REQUEST_ID_BYTES_MAX)) <= REQUEST_ID_BYTES_MAX

    def test_without_authentication_ids_stay_as_they_are(self) -> None:
        assert LOCAL_CALLER.session_of("a") == "a"
        assert TRAINER.session_of("") == ""


@each(
    "principal",
    ["", "trainer", "token:", "local:", "user:x", "token: a", "token:a ", "token:a\n", "token:" + "n" * 251],
)
def test_what_is_no_principal_is_refused(principal: str) -> None:
    with pytest.raises(InvalidNameError, match="principal is"):
        require_principal(principal)


@each("pattern", ["", "a*b", "**", "a\n", "x" * 257])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequestError, match="pattern is"):
        require_pattern(pattern)
    require_pattern("*")
    require_pattern("team/*")
