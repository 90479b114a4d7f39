"""The settings of `tensorus serve`: one row each. Flags, environment variables and keys of the file are derived from them.

A new setting is a row here, the field of `ServerConfig` that it names, and a row in docs/guide/configuration.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus.cli._connection import DEFAULT_ADDRESS
from tensorus.cli._setting_kinds import BOOL, FILE, FOLDER, SIZE_KIND, TEXT, choice, count, seconds

if TYPE_CHECKING:
    from tensorus.cli._setting_kinds import Kind

__all__ = ["BY_NAME", "GROUPS", "PREFIX", "SETTINGS", "Setting"]

PREFIX = "TENSORUS_"
"""What environment variables begin with."""


@dataclass(frozen=True)
class Setting:
    """One setting."""

    name: str
    """The key in the file. The flag and the environment variable have the same name in their own spelling."""
    kind: Kind
    default: str | float | None
    """As in a file; None: not set."""
    field: str
    """Where its value goes: a field of `ServerConfig`, or PART.FIELD for a field of a part of it, which is a dataclass itself.
    A value that is not set goes nowhere, so the field has its own default. A part without any value stays as it is."""
    group: str
    """Its group in the help."""
    help: str
    metavar: str | None = None
    unset: str = "none"
    """What it means if it has neither a value nor a default."""
    may_hold_password: bool = False
    """Whether its value is a URL with a password, perhaps."""

    @property
    def flag(self) -> str:
        """The flag. A setting that is true or false has its opposite, too: `--no-NAME`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default, as the help and the documentation have it."""
        if self.default is None:
            return self.unset
        return str(self.default).lower() if isinstance(self.default, bool) else f"{self.default}"


STORE = "Store"
REMOTE = "Beyond one machine"
NETWORK = "Network"
SECURITY = "Security"
LIMITS = "Limits"
LOGS = "Logs"
WATCHING = "Metrics and traces"

GROUPS = (STORE, REMOTE, NETWORK, SECURITY, LIMITS, LOGS, WATCHING)
"""The groups, in the order of the help."""

SETTINGS = (
    Setting(
        "data_dir",
        FOLDER,
        "tensorus-data",
        "engine.data_dir",
        STORE,
        "Folder of the store; created if missing. Unused with --catalogue and --chunks.",
    ),
    Setting(
        "reserve_bytes",
        SIZE_KIND,
        "1GiB",
        "engine.reserve_bytes",
        STORE,
        "Disk space that inserts must leave free; at least 2 % of the disk unless 0.",
    ),
    Setting(
        "dedup",
        BOOL,
        True,
        "engine.shares_payloads",
        STORE,
        "Store equal tensors once. Otherwise every tensor's bytes are stored, even if an equal tensor is stored already.",
    ),
    Setting(
        "read_only",
        BOOL,
        False,
        "engine.read_only",
        STORE,
        "Serve reads only. Nothing in the folder is changed, and it may be on a disk that cannot be written.",
    ),
    Setting(
        "catalogue",
        TEXT,
        None,
        "engine.catalogue",
        REMOTE,
        "Keep the catalogue in PostgreSQL, for example postgresql://host/db. Needs --chunks. Servers may share it.",
        metavar="URL",
        unset="in the folder of the store",
        may_hold_password=True,
    ),
    Setting(
        "chunks",
        TEXT,
        None,
        "engine.chunks",
        REMOTE,
        "Keep payloads in an object store: s3://BUCKET/PREFIX, gs://... or az://... Credentials come from the environment.",
        metavar="URL",
        unset="in the folder of the store",
        may_hold_password=True,
    ),
    Setting(
        "cache_dir",
        FOLDER,
        None,
        "engine.cache_dir",
        REMOTE,
        "Folder of a cache of payloads, for an object store; best on a fast local disk.",
        unset="no cache",
    ),
    Setting("cache_size", SIZE_KIND, "16GiB", "engine.cache_bytes", REMOTE, "Size of that cache."),
    Setting(
        "direct_reads",
        BOOL,
        True,
        "engine.direct_reads",
        REMOTE,
        "Let clients read large tensors from the object store by signed URLs, if it can sign them.",
    ),
    Setting(
        "listen",
        TEXT,
        DEFAULT_ADDRESS,
        "listen",
        NETWORK,
        "Address to listen on; port 0 picks a free port.",
        metavar="HOST:PORT",
    ),
    Setting(
        "tls_cert",
        FILE,
        None,
        "tls.cert",
        SECURITY,
        "Encrypt connections with this certificate, followed by those between it and its CA (PEM). Read again when it changes, "
        "like the other files of TLS.",
        unset="no TLS",
    ),
    Setting("tls_key", FILE, None, "tls.key", SECURITY, "Key of the certificate (PEM), without a password."),
    Setting(
        "tls_client_ca",
        FILE,
        None,
        "tls.client_ca",
        SECURITY,
        "Accept only clients with a certificate of one of these CAs (PEM).",
        unset="clients need no certificate",
    ),
    Setting(
        "auth",
        BOOL,
        None,
        "authenticates",
        SECURITY,
        "Ask every caller for a token or a client certificate, and let it do only what was granted to it.",
        unset="only if others than this machine can connect, and not with --insecure",
    ),
    Setting(
        "oidc_issuer",
        TEXT,
        None,
        "oidc_issuer",
        SECURITY,
        "Also accept tokens of this OpenID Connect issuer, for example https://login.example.com. Needs --oidc-audience.",
        metavar="URL",
    ),
    Setting(
        "oidc_audience", TEXT, None, "oidc_audience", SECURITY, "What the issuer's tokens must have as their audience."
    ),
    Setting(
        "insecure",
        BOOL,
        False,
        "insecure",
        SECURITY,
        "Allow networks to reach the server although it lacks TLS or authentication.",
    ),
    Setting(
        "connections",
        count(1),
        None,
        "connections_max",
        NETWORK,
        "Maximum open connections per worker.",
        unset="half of the file descriptor limit",
    ),
    Setting(
        "keepalive",
        seconds(),
        30.0,
        "keepalive_s",
        NETWORK,
        "Seconds of silence after which a connection is pinged; it is closed after 20 more seconds without an answer.",
    ),
    Setting(
        "stall_timeout",
        seconds(),
        60.0,
        "stall_timeout_s",
        NETWORK,
        "Seconds without progress after which a transfer is ended. The client can resume it.",
    ),
    Setting("grace", seconds(zero=True), 30.0, "grace_s", NETWORK, "Seconds that open transfers get on shutdown."),
    Setting(
        "streams",
        count(1),
        64,
        "streams_max",
        LIMITS,
        "Maximum concurrent transfers, including queued ones. At the limit, a new transfer displaces one that has been "
        "silent for 3 seconds.",
    ),
    Setting(
        "memory_budget",
        SIZE_KIND,
        "1GiB",
        "memory_budget_bytes",
        LIMITS,
        "Memory shared by all transfers. When it is exhausted, new transfers queue.",
    ),
    Setting(
        "memory_wait",
        seconds(),
        10.0,
        "memory_wait_s",
        LIMITS,
        "Seconds a transfer waits for memory before it is refused.",
    ),
    Setting(
        "codec_threads",
        count(1),
        None,
        "engine.codec_threads",
        LIMITS,
        "Threads that encode and decode.",
        unset="one per processor",
    ),
    Setting(
        "workers",
        count(1),
        1,
        "workers",
        LIMITS,
        "Worker processes, each with its share of threads, streams and memory. Useful for many clients with small tensors. "
        "Linux only.",
    ),
    Setting(
        "log_format",
        choice("text", "json"),
        "text",
        "logs.format",
        LOGS,
        "Form of the log on the error stream: text for people, or JSON, one object per line.",
    ),
    Setting(
        "log_level",
        choice("debug", "info", "warning", "error"),
        "info",
        "logs.level",
        LOGS,
        "Lowest level that is logged. debug has every failed call.",
    ),
    Setting(
        "access_log",
        BOOL,
        False,
        "logs.access",
        LOGS,
        "Log every call at its end, not only those that fail.",
    ),
    Setting(
        "audit_log",
        FILE,
        None,
        "logs.audit_file",
        LOGS,
        "File to append to, as one JSON object per line, who did what to which tensor.",
        unset="no audit log",
    ),
    Setting(
        "metrics_listen",
        TEXT,
        None,
        "metrics_listen",
        WATCHING,
        "Address at which Prometheus gets metrics. Everybody who reaches it may read them.",
        metavar="HOST:PORT",
        unset="no metrics",
    ),
    Setting(
        "traces",
        BOOL,
        False,
        "traces",
        WATCHING,
        "Trace calls with OpenTelemetry, to where its variables (OTEL_...) say.",
    ),
)

BY_NAME = {setting.name: setting for setting in SETTINGS}
