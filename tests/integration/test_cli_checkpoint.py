"""Checkpoints of torch through the command line: all that is in one comes back, and what cannot is named."""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tensorus
from support.client import run_command
from tensorus.cli._checkpoint import MANIFEST_ID, TakenApart, assembled, ids_in

pytestmark = pytest.mark.usefixtures("folder")


def assert_same(found: Any, expected: Any) -> None:
    """Fail unless both are the same, types and order of keys included."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.requires_grad) == (expected.dtype, expected.requires_grad)
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
        if isinstance(expected, OrderedDict):
            assert_same(vars(found), vars(expected))
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert repr(found) == repr(expected)


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(7)
    model(torch.randn(8, 3, generator=generator)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def put_and_get(dataset: str, place: list[str], checkpoint: Any) -> Any:
    torch.save(checkpoint, "in.pt")
    ran = run_command("put", dataset, "in.pt", *place)
    assert ran.exit_code == 0, ran.errors
    ran = run_command("get", dataset, "-o", "out.pt", *place)
    assert (ran.exit_code, ran.errors) == (0, "")
    return torch.load("out.pt")


def test_training_resumes_from_a_checkpoint_that_was_put_and_got(place: list[str], dataset: str) -> None:
    model, optimizer = trained()
    checkpoint = {"epoch": 3, "loss": 0.25, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    found = put_and_get(dataset, place, checkpoint)
    assert_same(found, torch.load("in.pt"))
    resumed = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    resumed_optimizer = torch.optim.AdamW(resumed.parameters())
    resumed.load_state_dict(found["model"])
    resumed_optimizer.load_state_dict(found["optimizer"])
    step(model, optimizer)
    step(resumed, resumed_optimizer)
    assert_same(resumed.state_dict(), model.state_dict())


SHARED = torch.arange(5.0)

CHECKPOINTS: dict[str, Any] = {
    "scalars": {"i": 2**70, "f": 0.1, "nan": float("nan"), "inf": -float("inf"), "none": None, "t": True, "c": 1 - 2j},
    "texts": {"": "", "ü": "\ud800", "bytes": b"\x00\xff", "array": bytearray(b"x")},
    "keys of any kind": {0: "int", "0": "str", None: 1, True: 2, (1, "a"): 3, 0.5: 4},
    "containers": [[], (), {}, OrderedDict(b=1, a=2), ({"x": [None]},), {"s": {1}}],
    "torch's own": {"size": torch.Size([1, 2]), "dtype": torch.bfloat16, "device": torch.device("cpu")},
    "a tensor alone": torch.arange(3),
    "a list of tensors": [torch.ones(2), torch.zeros(3, dtype=torch.int8)],
    "parameters": {"p": torch.nn.Parameter(torch.ones(2)), "frozen": torch.nn.Parameter(torch.ones(2), False)},
    "a tensor with a gradient": {"x": torch.ones(2, requires_grad=True)},
    "paths that meet": {"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1), "@manifest": torch.ones(4)},
    "no tensors": {"epoch": 1},
    "odd dtypes": [torch.ones(3).to(torch.float8_e4m3fn), torch.ones(2, 2, dtype=torch.bfloat16).T, torch.tensor(7)],
    "a state dict": OrderedDict({"w": torch.ones(2), "b.c": torch.zeros(1)}),
}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_comes_back_as_it_was(place: list[str], dataset: str, checkpoint: Any) -> None:
    found = put_and_get(dataset, place, checkpoint)
    if isinstance(checkpoint, OrderedDict):
        # A state dict has no manifest, so that its tensors are all that a query finds.
        checkpoint = dict(checkpoint)
    assert_same(found, checkpoint)


def test_tensors_that_share_their_memory_share_it_again(place: list[str], dataset: str) -> None:
    found = put_and_get(dataset, place, {"model": {"embedding": SHARED, "head": SHARED}, "other": SHARED.clone()})
    assert found["model"]["embedding"].data_ptr() == found["model"]["head"].data_ptr()
    assert found["model"]["embedding"].data_ptr() != found["other"].data_ptr()


def test_tied_tensors_are_read_once(place: list[str], dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    get_many = tensorus.Client.get_many

    def recording(client: tensorus.Client, dataset: str, ids: list[str], **options: Any) -> Any:
        read.extend(ids)
        return get_many(client, dataset, ids, **options)

    monkeypatch.setattr(tensorus.Client, "get_many", recording)
    put_and_get(dataset, place, {"embedding": SHARED, "head": SHARED, "epoch": 1})
    assert [tensor_id for tensor_id in read if not tensor_id.endswith(MANIFEST_ID)] == ["embedding"]


def test_of_a_state_dict_the_tensors_that_share_their_memory_are_named_and_stored(
    place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    torch.save({"embedding": SHARED, "head": SHARED}, "in.pt")
    ran = run_command("put", dataset, "in.pt", *place)
    assert ran.errors == (
        "tensorus: in.pt: 1 of its tensors share memory with another, such as 'head' with 'embedding'; "
        "each is stored separately\n"
    )
    assert [info.id for info in remote.list(dataset)] == ["embedding", "head"]


OTHERS = {
    "weights": torch.ones(2),
    "args": argparse.Namespace(lr=1),
    "history": [np.ones(2), 2],
    Path("key"): 1,
}


def test_numbers_of_numpy_are_kept(place: list[str], dataset: str) -> None:
    numbers = [np.float64(0.5), np.float32(np.nan), np.int64(-7), np.bool_(True), np.complex64(1j), np.uint8(3)]
    torch.save({"loss": numbers[0], "all": numbers}, "in.pt")
    ran = run_command("put", dataset, "in.pt", *place)
    assert ran.exit_code == 0, ran.errors
    run_command("get", dataset, "-o", "out.pt", *place)
    # Torch loads such a file only without weights_only, the one that was put, too.
    assert_same(torch.load("out.pt", weights_only=False), {"loss": numbers[0], "all": numbers})


@pytest.mark.parametrize("number", [np.datetime64("2026-01-01"), np.longdouble(1), np.array(1, ">f8")[()]], ids=str)
def test_other_scalars_of_numpy_are_left_out(place: list[str], dataset: str, number: Any) -> None:
    torch.save({"x": number}, "in.pt")
    ran = run_command("put", dataset, "in.pt", *place)
    if ran.exit_code:
        assert "'x' (numpy" in ran.errors
    else:
        run_command("get", dataset, "-o", "out.pt", *place)
        assert torch.load("out.pt", weights_only=False)["x"] == number


def test_what_cannot_be_kept_is_named_and_refused(place: list[str], dataset: str) -> None:
    torch.save(OTHERS, "in.pt")
    ran = run_command("put", dataset, "in.pt", *place)
    assert ran.exit_code == 1
    assert "'args' (argparse.Namespace)" in ran.errors
    assert "'history.0' (numpy" in ran.errors
    assert ran.errors.endswith("; --drop-other leaves them out\n")
    # Nothing was made for it.
    assert run_command("stats", dataset, *place).exit_code == 3


def test_what_cannot_be_kept_can_be_left_out(place: list[str], dataset: str) -> None:
    torch.save(OTHERS, "in.pt")
    ran = run_command("put", dataset, "in.pt", "--drop-other", *place)
    assert ran.exit_code == 0
    assert ran.errors.startswith("tensorus: in.pt: left out 'args' (argparse.Namespace), ")
    run_command("get", dataset, "-o", "out.pt", *place)
    # In a list its place is kept.
    assert_same(torch.load("out.pt"), {"weights": torch.ones(2), "history": [None, 2]})


class Runs:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return self._function, ("ran",)


@pytest.mark.parametrize("function", [os.mkdir, os.makedirs, eval, exec, Path], ids=lambda found: found.__name__)
@pytest.mark.parametrize("arguments", [[], ["--drop-other"]], ids=["refused", "left out"])
def test_nothing_in_a_checkpoint_is_run(
    place: list[str], dataset: str, folder: Path, function: Any, arguments: list[str]
) -> None:
    torch.save({"weights": torch.ones(2), "evil": Runs(function)}, "in.pt")
    ran = run_command("put", dataset, "in.pt", *arguments, *place)
    assert "NameError" not in ran.errors
    assert not (folder / "ran").exists()
    assert arguments or ran.exit_code == 1


def test_several_checkpoints_in_one_dataset_are_told_apart_by_prefix(place: list[str], dataset: str) -> None:
    for epoch in (1, 2):
        torch.save({"epoch": epoch, "w": torch.full((2,), epoch)}, "in.pt")
        assert run_command("put", dataset, "in.pt", "--prefix", f"epoch{epoch}/", *place).exit_code == 0
    ran = run_command("get", dataset, "-o", "out.pt", *place)
    assert ran.exit_code == 1
    assert "to 2 checkpoints ('epoch1/@manifest', 'epoch2/@manifest'); choose one" in ran.errors
    ran = run_command("get", dataset, "-o", "out.pt", "--where", '@id STARTS WITH "epoch2/"', *place)
    assert ran.exit_code == 0, ran.errors
    assert_same(torch.load("out.pt"), {"epoch": 2, "w": torch.full((2,), 2)})


def test_a_checkpoint_takes_the_place_of_another(place: list[str], dataset: str) -> None:
    torch.save({"epoch": 1, "w": torch.ones(2), "old": torch.ones(1)}, "in.pt")
    run_command("put", dataset, "in.pt", *place)
    torch.save({"epoch": 2, "w": torch.zeros(3)}, "in.pt")
    assert run_command("put", dataset, "in.pt", *place).exit_code == 1
    assert run_command("put", dataset, "in.pt", "--replace", *place).exit_code == 0
    ran = run_command("get", dataset, "-o", "out.pt", *place)
    assert ran.errors == "tensorus: 1 tensor not part of the checkpoint left out, such as 'old'\n"
    assert_same(torch.load("out.pt"), {"epoch": 2, "w": torch.zeros(3)})


def test_a_checkpoint_that_lacks_a_tensor_is_refused(place: list[str], dataset: str, folder: Path) -> None:
    torch.save({"epoch": 1, "w": torch.ones(2), "v": torch.ones(1)}, "in.pt")
    run_command("put", dataset, "in.pt", *place)
    run_command("rm", dataset, "w", *place)
    ran = run_command("get", dataset, "-o", "out.pt", *place)
    assert ran.exit_code == 1
    assert "1 of the checkpoint's 2 tensors are missing or not selected, such as 'w'" in ran.errors
    assert [path.name for path in folder.iterdir()] == ["in.pt"]


def test_tensors_without_a_manifest_become_a_dict_of_them(place: list[str], dataset: str) -> None:
    np.save("a.npy", np.arange(3))
    np.save("b.npy", np.arange(4))
    run_command("put", dataset, "a.npy", "b.npy", *place)
    run_command("get", dataset, "-o", "out.pt", *place)
    assert_same(torch.load("out.pt"), {"a": torch.arange(3), "b": torch.arange(4)})


MANIFEST = TakenApart({"w": torch.ones(1), "x": [1.5]}, "in.pt", "in").manifest or b""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"tensorus_manifest":1', b'"tensorus_manifest":2', "has an unknown version"),
        (b'"kind":"tensor"', b'"kind":"lambda"', "does not parse"),
        (b'"kind":"dict"', b'"find":"dict"', "does not parse"),
        (b'"id":"w"', b'"id":["w"]', "does not parse"),
        (b"}", b"", "does not parse"),
        (b"[1.5]", b"[" * 100_000 + b"]" * 100_000, "does not parse"),
        (b'"kind":"tensor"', b'"same_as":"x","kind":"tensor"', "does not parse"),
    ],
)
def test_a_manifest_that_is_none_is_refused(old: bytes, new: bytes, message: str) -> None:
    broken = MANIFEST.replace(old, new)
    assert broken != MANIFEST
    with pytest.raises(ValueError, match=message):
        assembled(broken, {"w": np.ones(1, np.float32)})


def test_a_manifest_names_its_tensors() -> None:
    assert ids_in(MANIFEST) == {"w": "w"}
    assert MANIFEST_ID == "@manifest"
    assert MANIFEST == (
        b'{"tensorus_manifest":1,"file":"in.pt","root":{"kind":"dict","items":'
        b'[["w",{"kind":"tensor","id":"w"}],["x",[1.5]]]}}'
    )
