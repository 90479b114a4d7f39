"""The help is complete: every command shows an example that works, every option says what it does."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import click
import pytest

import tensorus
from support.client import run_command
from tensorus.cli._app import app

COMMANDS = sorted(app.commands)

OPTIONS = [
    pytest.param(name, parameter, id=f"{name} {parameter.opts[-1]}")
    for name, command in sorted(app.commands.items())
    for parameter in command.params
    if isinstance(parameter, click.Option)
]

ARGUMENTS = [
    pytest.param(name, parameter, id=f"{name} {parameter.name}")
    for name, command in sorted(app.commands.items())
    for parameter in command.params
    if isinstance(parameter, click.Argument)
]


def test_there_are_these_commands() -> None:
    first = [
        "append",
        "backup",
        "bench",
        "check-store",
        "chown",
        "copy",
        "cp",
        "df",
        "drop-snapshot",
        "explain",
        "gc",
        "get",
        "grant",
        "grants",
        "import",
        "info",
        "ls",
        "mv",
        "put",
        "quota",
        "quotas",
        "recover",
    ]
    last = ["restore", "retention", "revoke", "rm", "serve", "snapshot", "snapshots", "stats", "status"]
    last += ["tls", "token", "verify", "write"]
    assert [*first, *last] == COMMANDS


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_of_it_all_lists_every_command_and_every_exit_code(option: str) -> None:
    ran = run_command(option)
    assert ran.exit_code == 0
    for name, command in app.commands.items():
        assert re.search(rf"^  {name} +\S", ran.output, re.MULTILINE), name
        assert command.get_short_help_str()
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 server unavailable," in ran.output
    assert "5 imported without some metadata." in ran.output
    assert "TENSORUS_ADDRESS" in ran.output
    assert "TENSORUS_TOKEN" in ran.output


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_of_a_command_shows_an_example(name: str, option: str) -> None:
    ran = run_command(name, option)
    assert (ran.exit_code, ran.errors) == (0, "")
    assert re.search(rf"Examples?:\n +tensorus {name}\b", ran.output)


def examples() -> list[tuple[str, str]]:
    found = []
    for name in COMMANDS:
        text = inspect.cleandoc(app.commands[name].help or "")
        found += [(name, line.strip()) for line in text.splitlines() if line.strip().startswith("tensorus ")]
    return found


@pytest.mark.parametrize(("name", "line"), examples(), ids=lambda value: value)
def test_an_example_is_a_command_that_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    program, command, *arguments = shlex.split(line)
    assert (program, command) == ("tensorus", name)
    for argument in arguments:
        if name in {"put", "append", "write", "explain", "bench"} and argument.endswith(
            (".npy", ".npz", ".safetensors", ".pt")
        ):
            Path(argument).touch()
        if name == "import" and argument == "./tensor_data":
            Path(argument).mkdir()
        if name == "recover" and argument.startswith("./"):
            Path(argument).mkdir()
    if name == "gc" and not arguments[0].startswith("--"):
        arguments[0] = str(tmp_path)
    # Parses, and refuses what does not; runs nothing.
    app.commands[name].make_context(name, arguments)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_says_what_it_does(name: str, option: click.Option) -> None:
    assert option.help
    assert option.help.rstrip().endswith((".", "]")), option.help
    assert option.opts[-1] in run_command(name, "--help").output


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_an_argument_is_spoken_of(name: str, argument: click.Argument) -> None:
    assert argument.name is not None
    assert re.search(rf"\b{argument.name.upper()}\b", inspect.cleandoc(app.commands[name].help or ""))


@pytest.mark.parametrize(
    "name",
    sorted(
        set(COMMANDS) - {"serve", "check-store", "explain", "gc", "recover", "copy", "backup", "status", "tls", "token"}
    ),
)
def test_every_command_that_reads_or_writes_knows_both_places(name: str) -> None:
    options = {option for parameter in app.commands[name].params for option in parameter.opts}
    assert {"--server", "--store"} <= options


@pytest.mark.parametrize(
    "name", sorted(set(COMMANDS) - {"serve", "check-store", "gc", "recover", "copy", "backup", "tls", "token"})
)
def test_every_command_that_talks_to_a_server_says_how_to_reach_it(name: str) -> None:
    options = {option for parameter in app.commands[name].params for option in parameter.opts}
    assert {"--server", "--profile", "--token-file", "--ca", "--cert", "--key", "--insecure"} <= options
    # The list of processes would show it.
    assert "--token" not in options
    shown = " ".join(run_command(name, "--help").output.split())
    assert "TENSORUS_ADDRESS" in shown
    assert "127.0.0.1:7733]" in shown


def test_the_presets_in_the_help_are_those_there_are() -> None:
    from tensorus_codecs.presets import PRESETS  # noqa: PLC0415 - the command line does not import the codecs for this

    (option,) = (parameter for parameter in app.commands["put"].params if parameter.name == "preset")
    assert isinstance(option, click.Option)
    named = re.search(r"Storage preset: ([\w, ]+)\.", option.help or "")
    assert named is not None
    assert named.group(1).split(", ") == list(PRESETS)


def test_the_version_is_the_package_s() -> None:
    assert run_command("--version").output == f"tensorus, version {tensorus.__version__}\n"
