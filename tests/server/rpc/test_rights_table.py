"""Every method of the contract needs a right, and the documentation names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.cases import each
from tensorus_protos.v1 import access_pb2, tensorus_pb2
from tensorus_server.access.rights import EVERYTHING, Role
from tensorus_server.rpc.rights import NEEDS

SERVICES = [
    tensorus_pb2.DESCRIPTOR.services_by_name["TensorService"],
    access_pb2.DESCRIPTOR.services_by_name["AccessService"],
]
METHODS = {method.name: method for service in SERVICES for method in service.methods}

PAGE = (Path(__file__).parents[3] / "docs" / "guide" / "access.md").read_text("utf-8")

CHECKED_BY_THE_METHOD = {
    "Insert": "writer of the dataset; reader of the datasets of bases",
    "ExplainPolicy": "none; reader of the dataset of the base, if there is one",
}
"""Streams of requests, whose first message says what they are about."""

OWN = {
    "GetCapabilities": "none",
    "GetServerStatus": "none",
    "ListDatasets": "none; it lists the datasets of which the caller is reader",
    "ListGrants": "none; it lists the caller's grants, and those on patterns of which it is admin",
    "GetInsertStatus": "none; it knows the caller's own inserts",
    "CancelInsert": "none; it knows the caller's own inserts",
}


def request_of(name: str, **values: Any) -> Any:
    """Return a request of a method in which every text says which field it is."""
    message = getattr(access_pb2, f"{name}Request", None) or getattr(tensorus_pb2, f"{name}Request")
    fields = {
        field.name: field.name
        for field in message.DESCRIPTOR.fields
        if field.type == field.TYPE_STRING and not field.is_repeated
    }
    request = message(**(fields | values))
    if "grant" in message.DESCRIPTOR.fields_by_name:
        request.grant.pattern = "grant.pattern"
    return request


WORDS = {
    "dataset": "the dataset",
    "name": "the dataset",
    "new_name": "the new name",
    "source_dataset": "the source dataset",
    "grant.pattern": "everything that the pattern matches",
    EVERYTHING: "everything",
}


def described(name: str) -> str:
    """Return the rights that a method needs, in the words of the documentation."""
    if name in CHECKED_BY_THE_METHOD:
        return CHECKED_BY_THE_METHOD[name]
    needs = [(role, WORDS[dataset]) for role, dataset in NEEDS[name](request_of(name))]
    if name == "CopyTensors":
        moved = NEEDS[name](request_of(name, move=True))
        assert [role for role, _ in moved] == [Role.WRITER, Role.WRITER]
        return "writer of the target dataset; reader of the source dataset, for a move writer"
    if name == "Verify":
        assert list(NEEDS[name](request_of(name, dataset=""))) == [(Role.READER, EVERYTHING)]
        return "reader of the dataset, or of everything"
    return "; ".join(f"{role.word} of {what}" for role, what in needs) or OWN[name]


def test_every_method_is_in_the_table_and_nothing_else() -> None:
    assert set(NEEDS) == set(METHODS)


def test_methods_without_a_needed_right_are_known() -> None:
    free = {name for name in NEEDS if not NEEDS[name](request_of(name))}
    assert free == {*CHECKED_BY_THE_METHOD, *OWN}


@each("name", sorted(METHODS))
def test_the_documentation_says_what_a_method_needs(name: str) -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
    assert [row[1].strip() for row in rows] == [described(name)]
