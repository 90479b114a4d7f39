"""The settings of `tensorus serve`: one table, three sources, and refusals that name what is wrong."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import pytest

from support.cases import each
from support.client import run_command
from tensorus.cli._app import app
from tensorus.cli._server_config import server_config
from tensorus.cli._setting_kinds import TEXT
from tensorus.cli._setting_options import to_toml
from tensorus.cli._setting_sources import Chosen, choose
from tensorus.cli._settings import BY_NAME, GROUPS, SETTINGS, Setting
from tensorus.cli.serve import serve
from tensorus_server.config import EngineConfig, ServerConfig, without_password

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "configuration.md"
NAMES = [setting.name for setting in SETTINGS]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in list(os.environ):
        if variable.startswith("TENSORUS_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder / "server.toml"


def value_of(name: str, chosen: tuple[Chosen, ...]) -> tuple[Any, str]:
    (found,) = (one for one in chosen if one.setting.name == name)
    return found.value, found.origin


def refusal(flags: dict[str, Any] | None = None, file: Path | None = None) -> str:
    with pytest.raises(click.UsageError) as caught:
        server_config(choose(flags or {}, file))
    return caught.value.message


# ---- The table ---------------------------------------------------------------------------------------------------------


@each("setting", SETTINGS, ids=NAMES)
def test_a_setting_has_a_flag_a_variable_and_a_key_of_the_same_name(
    setting: Setting, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, literal, parsed = other_value(setting)
    (option,) = (parameter for parameter in serve.params if parameter.name == setting.name)
    assert option.opts == [setting.flag]
    is_bool = setting.kind.form == "bool"
    assert option.secondary_opts == (["--no-" + setting.flag[2:]] if is_bool else [])
    # A copy, since click takes arguments out of the list.
    arguments = [*option.secondary_opts] if is_bool else [setting.flag, text]
    # Below the app: a command keeps the options for help that it was first asked with.
    context = serve.make_context("serve", arguments, parent=click.Context(app, **app.context_settings))
    assert value_of(setting.name, choose({setting.name: context.params[setting.name]}, None)) == (parsed, setting.flag)
    monkeypatch.setenv(setting.variable, text)
    assert value_of(setting.name, choose({}, None)) == (parsed, setting.variable)
    monkeypatch.delenv(setting.variable)
    file.write_text(f"{setting.name} = {literal}\n")
    assert value_of(setting.name, choose({}, file)) == (parsed, str(file))


def other_value(setting: Setting) -> tuple[str, str, Any]:
    """Return a value that is not the default: as text, in TOML, and parsed."""
    if setting.kind.form == "text" and isinstance(setting.kind.click_type, click.Choice):
        last = str(setting.kind.click_type.choices[-1])
        return last, f'"{last}"', last
    return {
        "text": ("localhost:1", '"localhost:1"', "localhost:1"),
        "bool": ("false", "false", False),
        "path": ("/a b", '"/a b"', Path("/a b")),
        "size": ("3MiB", '"3MiB"', 3 * 1024**2),
        "count": ("3", "3", 3),
        "seconds": ("2.5", "2.5", 2.5),
    }[setting.kind.form]


def field_default(setting: Setting) -> Any:
    owner: Any = ServerConfig
    *parts, name = setting.field.split(".")
    for part in parts:
        hint = get_type_hints(owner)[part]
        owner = next(iter(get_args(hint)), hint)
    (field,) = (field for field in dataclasses.fields(owner) if field.name == name)
    return field.default


@each("setting", SETTINGS, ids=NAMES)
def test_the_default_of_a_setting_is_that_of_its_field(setting: Setting) -> None:
    if setting.name == "data_dir":
        assert field_default(setting) is dataclasses.MISSING
    else:
        (chosen,) = (one for one in choose({}, None) if one.setting is setting)
        # A part that may be absent has no defaults for what it needs.
        assert chosen.value == field_default(setting) or (chosen.value is None and "." in setting.field)


def test_no_two_settings_share_a_name_or_a_field() -> None:
    assert len(BY_NAME) == len({setting.field for setting in SETTINGS}) == len(SETTINGS)


def test_the_help_has_every_setting_in_its_group() -> None:
    output = run_command("serve", "--help").output
    groups = re.split(rf"^({'|'.join(GROUPS)}|Options):\n", output, flags=re.MULTILINE)[1:]
    for group, text in zip(groups[::2], groups[1::2], strict=True):
        expected = [setting.flag for setting in SETTINGS if setting.group == group]
        if group != "Options":
            assert re.findall(r"^  (--[\w-]+)", text, re.MULTILINE) == expected
    assert tuple(groups[::2]) == (*GROUPS, "Options")


def test_the_page_has_a_row_for_every_setting() -> None:
    table = PAGE.read_text(encoding="utf-8").split("| key | default | meaning |\n|---|---|---|\n", 1)[1]
    expected = [
        f"| `{setting.name}` | {setting.unset if setting.default is None else f'`{setting.default_text}`'} | {setting.help} |"
        for setting in SETTINGS
    ]
    assert table.splitlines() == expected


@dataclasses.dataclass(frozen=True)
class Pair:
    cert: str
    key: str
    client_ca: str | None = None


@dataclasses.dataclass(frozen=True)
class WithPart:
    """Like `ServerConfig`, with a part that is not there unless something in it is set."""

    engine: EngineConfig
    pair: Pair | None = None


def test_a_part_is_there_if_a_setting_of_it_is_and_must_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorus_server.config.ServerConfig", WithPart)
    rows = [
        Setting(f"tls_{name}", TEXT, None, f"pair.{name}", GROUPS[0], "Help.") for name in ("cert", "key", "client_ca")
    ]
    folder = Chosen(BY_NAME["data_dir"], Path("data"), "default")

    def config(*values: str | None) -> Any:
        return server_config((folder, *(Chosen(row, value, row.flag) for row, value in zip(rows, values, strict=True))))

    assert config(None, None, None) == WithPart(EngineConfig(Path("data")))
    assert config("c", "k", None) == WithPart(EngineConfig(Path("data")), Pair("c", "k"))
    with pytest.raises(
        click.UsageError, match=r"^tls_cert needs tls_key, which is not set \(tls_cert is from --tls-cert,"
    ):
        config("c", None, "a")


# ---- Precedence --------------------------------------------------------------------------------------------------------


def test_flags_beat_the_environment_which_beats_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("streams = 1\nworkers = 1\ngrace = 1\n")
    monkeypatch.setenv("TENSORUS_STREAMS", "2")
    monkeypatch.setenv("TENSORUS_GRACE", "2")
    chosen = choose({"streams": 3}, file)
    assert value_of("streams", chosen) == (3, "--streams")
    assert value_of("grace", chosen) == (2.0, "TENSORUS_GRACE")
    assert value_of("workers", chosen) == (1, str(file))
    assert value_of("memory_wait", chosen) == (10.0, "default")


def test_the_environment_names_a_file_unless_a_flag_does(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("streams = 1")
    other = file.with_name("other.toml")
    other.write_text("streams = 2")
    monkeypatch.setenv("TENSORUS_CONFIG", str(other))
    assert value_of("streams", choose({}, None)) == (2, str(other))
    assert value_of("streams", choose({}, file)) == (1, str(file))


def test_an_empty_variable_counts_as_not_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("streams = 1")
    monkeypatch.setenv("TENSORUS_STREAMS", "")
    monkeypatch.setenv("TENSORUS_CONFIG", "")
    assert value_of("streams", choose({}, None)) == (64, "default")
    assert value_of("streams", choose({}, file)) == (1, str(file))


def test_a_flag_takes_back_what_the_file_says(file: Path) -> None:
    file.write_text("dedup = false\ndirect_reads = false")
    config = server_config(choose({"dedup": True}, file))
    assert (config.engine.shares_payloads, config.engine.direct_reads) == (True, False)


def test_relative_paths_in_the_file_start_at_its_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('data_dir = "data"')
    assert value_of("data_dir", choose({}, Path("etc/server.toml")))[0] == file.parent / "data"
    monkeypatch.setenv("TENSORUS_DATA_DIR", "data")
    assert value_of("data_dir", choose({}, file))[0] == Path("data")
    monkeypatch.setenv("HOME", str(tmp_path))
    file.write_text('data_dir = "~/data"')
    monkeypatch.delenv("TENSORUS_DATA_DIR")
    assert value_of("data_dir", choose({}, file))[0] == tmp_path / "data"


def test_no_reserve_is_no_share_of_the_disk_either(file: Path) -> None:
    file.write_text("reserve_bytes = 0")
    engine = server_config(choose({}, file)).engine
    assert (engine.reserve_bytes, engine.reserve_share) == (0, 0.0)


# ---- Refusals ----------------------------------------------------------------------------------------------------------


@each(
    ("text", "message"),
    [
        ('memory_bugdet = "2GiB"', "unknown key 'memory_bugdet' with the value \"2GiB\"; did you mean memory_budget?"),
        ("memory-budget = 5", "unknown key 'memory-budget' with the value 5; did you mean memory_budget?"),
        ("no_dedup = true", "unknown key 'no_dedup' with the value true; did you mean dedup = false?"),
        ("xyzzy = 1", "unknown key 'xyzzy' with the value 1; the keys are data_dir, "),
        ("[xyzzy]\na = 1", "unknown key 'xyzzy' with the value {'a': 1}; keys are flat, without tables; the keys are"),
        ('streams = "5"', 'streams is "5", must be a whole number of at least 1'),
        ("streams = 0", "streams is 0, must be a whole number of at least 1"),
        ("streams = true", "streams is true, must be a whole number of at least 1"),
        ("streams = 1.0", "streams is 1.0, must be a whole number of at least 1"),
        ("dedup = 1", "dedup is 1, must be true or false"),
        ('dedup = "yes"', 'dedup is "yes", must be true or false'),
        ("grace = nan", "grace is nan, must be a number of seconds of at least 0"),
        ("keepalive = inf", "keepalive is inf, must be a number of seconds above 0"),
        ("keepalive = 0", "keepalive is 0, must be a number of seconds above 0"),
        ("memory_budget = -1", 'memory_budget is -1, must be a size such as "256MiB", or a number of bytes'),
        (
            'memory_budget = "1 parsec"',
            'memory_budget is "1 parsec", must be a size such as "256MiB", or a number of bytes',
        ),
        (f'memory_budget = "{"9" * 400}"', f'memory_budget is "{"9" * 76}..., must be a size'),
        ("memory_wait = 1" + 400 * "0", "memory_wait is 1" + 76 * "0" + "..., must be a number of seconds above 0"),
        ("listen = []", "listen is [], must be a text that is not empty"),
        ('listen = ""', 'listen is "", must be a text that is not empty'),
        ('data_dir = "server.toml"', 'data_dir is "server.toml", must be the path of a folder'),
        ("a =", "not a TOML file: "),
        ("streams = 1\nstreams = 2", "not a TOML file: "),
    ],
)
def test_a_mistake_in_the_file_names_the_file_the_key_the_value_and_what_is_allowed(
    text: str, message: str, file: Path
) -> None:
    file.write_text(text)
    assert refusal(file=file).startswith(f"{file}: {message}")


@each(
    ("variable", "text", "message"),
    [
        ("STREAMS", "many", 'TENSORUS_STREAMS is "many", must be a whole number of at least 1'),
        ("DEDUP", "maybe", 'TENSORUS_DEDUP is "maybe", must be true or false'),
        ("STREAM", "5", 'TENSORUS_STREAM with the value "5" is unknown; did you mean TENSORUS_STREAMS?'),
        ("Streams", "5", 'TENSORUS_Streams with the value "5" is unknown; did you mean TENSORUS_STREAMS?'),
        ("NO_DEDUP", "1", 'TENSORUS_NO_DEDUP with the value "1" is unknown; did you mean TENSORUS_DEDUP=false?'),
        ("GRACE", "1e999", 'TENSORUS_GRACE is "1e999", must be a number of seconds of at least 0'),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    variable: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(f"TENSORUS_{variable}", text)
        assert refusal().removeprefix("the environment variable ") == message


def test_variables_of_clients_and_of_kubernetes_are_none_of_the_server_s(monkeypatch: pytest.MonkeyPatch) -> None:
    service = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "SERVICE_PORT_METRICS", "PORT"]
    links = [f"PORT_7733_TCP{part}" for part in ("", "_PROTO", "_PORT", "_ADDR")]
    for name in (*service, *links, "ADDRESS", "SERVER", "TOKEN", "PROFILE"):
        monkeypatch.setenv(f"TENSORUS_{name}", "tcp://10.0.0.1:7733")
    assert {one.origin for one in choose({}, None)} == {"default"}


@each(
    "text",
    [
        "catalogue = ['postgresql://u:hunter2@h']",
        'catalog = "postgresql://u:hunter2@h"',
        'catalog = "hunter2"',
        'xyzzy = "postgresql://u:hunter2@h"',
        'password = "hunter2"',
        'catalogue = "u:hunter2@h"',
        'chunks = "s3://u:hunter2@bucket"',
    ],
)
def test_a_message_does_not_repeat_what_may_be_a_password(text: str, file: Path) -> None:
    file.write_text(text)
    assert "hunter2" not in refusal(file=file)


def test_settings_that_contradict_each_other_are_refused_with_where_they_come_from(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('cache_dir = "/cache"')
    assert refusal(file=file).endswith(f"it is for an object store (cache_dir is from {file})")
    file.write_text("")
    monkeypatch.setenv("TENSORUS_LISTEN", "nowhere")
    assert refusal().endswith("for example 127.0.0.1:7733 (listen is from TENSORUS_LISTEN)")


def test_a_file_that_cannot_be_read_is_refused_with_who_named_it(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(file=Path("none")) == "cannot read the file 'none' of --config: No such file or directory"
    assert refusal(file=tmp_path).endswith("of --config: Is a directory")
    assert refusal(file=Path("/dev/zero")).startswith("/dev/zero of --config has more than 1048576 bytes")
    file.write_bytes(b"# \xff")
    assert refusal(file=file) == f"{file}: not a TOML file: byte 2 is not UTF-8"
    monkeypatch.setenv("TENSORUS_CONFIG", "none")
    assert refusal().startswith("cannot read the file 'none' of TENSORUS_CONFIG")


def test_a_mistake_is_wrong_usage_and_nothing_is_opened(file: Path, tmp_path: Path) -> None:
    file.write_text('data_dir = "data"\nstreams = 0')
    ran = run_command("serve", "--config", file)
    assert (ran.exit_code, ran.output) == (2, "")
    assert f"Error: {file}: streams is 0" in ran.errors
    assert not (file.parent / "data").exists()


# ---- Printing ----------------------------------------------------------------------------------------------------------


def test_what_is_printed_is_a_file_of_the_same_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(
        'data_dir = "a \\u0022\\u007f b"\nmemory_budget = "3MiB"\nreserve_bytes = 5\ndedup = false\ngrace = 0.5'
    )
    monkeypatch.setenv("TENSORUS_STREAMS", "7")
    ran = run_command("serve", "--config", file, "--workers", "2", "--print-config")
    assert (ran.exit_code, ran.errors) == (0, "")
    printed = file.with_name("printed.toml")
    printed.write_text(ran.output)
    monkeypatch.delenv("TENSORUS_STREAMS")
    config = server_config(choose({}, printed))
    assert config == ServerConfig(
        EngineConfig(file.parent / 'a "\x7f b', reserve_bytes=5, shares_payloads=False),
        memory_budget_bytes=3 * 1024**2,
        grace_s=0.5,
        streams_max=7,
        workers=2,
    )
    lines = ran.output.splitlines()
    assert f'memory_budget = "3MiB"  # file {file}' in lines
    assert "streams = 7  # TENSORUS_STREAMS" in lines
    assert "workers = 2  # --workers" in lines
    assert 'listen = "127.0.0.1:7733"  # default' in lines
    assert "# codec_threads is not set: one per processor" in lines


def test_passwords_are_not_printed() -> None:
    url = "postgresql://me:hunter2@host/db?password=hunter2"
    lines = list(to_toml(choose({"catalogue": url, "chunks": "s3://bucket"}, None), without_password))
    (line,) = (line for line in lines if line.startswith("catalogue"))
    assert line == 'catalogue = "postgresql://me@host/db?password=***"  # --catalogue; the password is not shown'
    assert "hunter2" not in "".join(lines)
    tomllib.loads("\n".join(lines))


def test_the_effective_settings_have_what_verbose_sets() -> None:
    assert 'log_level = "debug"' in run_command("serve", "--verbose", "--print-config").output
    assert 'log_level = "info"' in run_command("serve", "--print-config").output
