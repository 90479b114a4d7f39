"""Makes a `ServerConfig` of the values of settings."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import click

from tensorus._missing import engine_missing
from tensorus.cli._remote import check_places
from tensorus.cli._setting_sources import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus.cli._setting_sources import Chosen
    from tensorus_server.config import ServerConfig

__all__ = ["server_config"]


def server_config(chosen: Sequence[Chosen]) -> ServerConfig:
    """Return the configuration that the values of all settings make.

    Raises:
        click.UsageError: they contradict each other, or an address is malformed; the message says where values come from.
        ImportError: a library for the store's places is not installed.
    """
    try:
        config = _assembled(chosen)
        check_places(config.engine)
    except ValueError as error:
        raise click.UsageError(f"{error}{_origins(str(error), chosen)}") from error
    except ImportError as error:
        raise engine_missing(error) from error
    return config


def _assembled(chosen: Sequence[Chosen]) -> ServerConfig:
    from tensorus_server.config import ServerConfig  # noqa: PLC0415 - not part of the thin client

    parts: dict[str, dict[str, Any]] = {"engine": {}}
    fields: dict[str, Any] = {}  # `Any`: each field has its own type
    for one in chosen:
        part, _, field = one.setting.field.rpartition(".")
        if one.value is not None:
            (parts.setdefault(part, {}) if part else fields)[field] = one.value
    if parts["engine"].get("reserve_bytes") == 0:
        parts["engine"]["reserve_share"] = 0.0
    hints = get_type_hints(ServerConfig)
    for part, values in parts.items():
        # The type of a part that may be None comes first, without it.
        kind = next(iter(get_args(hints[part])), hints[part])
        _require_whole(part, kind, values, chosen)
        fields[part] = kind(**values)
    return ServerConfig(**fields)


def _require_whole(part: str, kind: Any, values: dict[str, Any], chosen: Sequence[Chosen]) -> None:
    """Raise ValueError if a part has some values, but lacks one that it needs. `Any`: a dataclass."""
    names = {one.setting.field: one.setting.name for one in chosen}
    for field in dataclasses.fields(kind):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in values and not has_default:
            given = names[f"{part}.{next(iter(values))}"]
            raise ValueError(f"{given} needs {names[f'{part}.{field.name}']}, which is not set")


def _origins(message: str, chosen: Sequence[Chosen]) -> str:
    """Return where the settings come from that a message names, in parentheses; empty if nobody gave them."""
    words = set(re.findall(r"\w+", message))
    named = [
        f"{one.setting.name} is from {one.origin}"
        for one in chosen
        if one.origin != DEFAULT and {one.setting.name, one.setting.field.rpartition(".")[2]} & words
    ]
    return f" ({', '.join(named)})" if named else ""
