"""Addresses, and errors: which part failed, what to do, within bounded time, and never a credential."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback

import pytest

from server.chunk_store.objects.conftest import MakeStore
from server.chunk_store.objects.test_writing import written
from support.http_proxy import HttpProxy, Passed, Treatment
from support.seaweed import SECRET_KEY, Seaweed, new_prefix
from tensorus_server.chunk_store.abc import PayloadMissingError, new_payload_key
from tensorus_server.chunk_store.objects.address import StoreAddress
from tensorus_server.chunk_store.objects.client import (
    PUT_S_MAX,
    ObjectClient,
    RequestLimits,
    _FailureError,
)
from tensorus_server.chunk_store.objects.probe import PROBE_LIMITS, probe_store
from tensorus_server.errors import InvalidRequestError, StorageFullError, StoreUnavailableError

ADDRESSES = {
    "s3://bucket": ("s3", "bucket", "", {}),
    "s3://bucket/": ("s3", "bucket", "", {}),
    "s3://bucket/a/b/": ("s3", "bucket", "a/b", {}),
    "s3://bucket/a?endpoint=http://127.0.0.1:8333&region=eu-west-1": (
        "s3", "bucket", "a", {"endpoint": "http://127.0.0.1:8333", "region": "eu-west-1"},
    ),
    "gs://bucket/a": ("gs", "bucket", "a", {}),
    "az://container/a?account=name": ("az", "container", "a", {"account": "name"}),
    "https://account.blob.core.windows.net/container/a/b": ("az", "container", "a/b", {"account": "account"}),
}  # fmt: skip


@pytest.mark.parametrize("url", ADDRESSES)
def test_addresses(url: str) -> None:
    address = StoreAddress.parse(url)
    assert (address.scheme, address.bucket, address.prefix, dict(address.parameters)) == ADDRESSES[url]


REFUSED = {
    "ftp://bucket": "begins with ftp://, must begin with s3://, gs:// or az://",
    "s3://user:hunter2@bucket/a": "holds credentials",
    "s3://bucket/a?secret_access_key=hunter2": "has the parameter 'secret_access_key', allowed are: endpoint, region",
    "az://container?sas_token=hunter2": "has the parameter 'sas_token'",
    "s3://": "names the bucket ''",
    "s3://b*d/a": "names the bucket",
    "s3://bucket/a//b": "prefix of the object store is 'a//b'",
    "s3://bucket/a/../b": "must not have empty parts or dots alone",
    "https://example.com/a": "begins with https://",
}


@pytest.mark.parametrize("url", REFUSED)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        StoreAddress.parse(url)
    assert REFUSED[url] in str(error.value)
    assert "hunter2" not in str(error.value)


def test_plain_http_is_used_only_if_the_endpoint_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert StoreAddress.parse("s3://bucket").is_encrypted
    assert not StoreAddress.parse("s3://bucket?endpoint=http://127.0.0.1:1").is_encrypted
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert not StoreAddress.parse("s3://bucket").is_encrypted
    assert StoreAddress.parse("s3://bucket?endpoint=https://127.0.0.1:1").is_encrypted
    assert StoreAddress.parse("gs://bucket").is_encrypted


def failure(url: str, limits: RequestLimits = PROBE_LIMITS) -> tuple[str, float]:
    """Return the message with which a store is refused, and how long that took; no credential may be in it."""
    begin_s = time.monotonic()
    with pytest.raises(StoreUnavailableError) as error:
        probe_store(StoreAddress.parse(url), limits)
    took_s = time.monotonic() - begin_s
    shown = "".join(traceback.format_exception(error.value)) + repr(error.value.facts)
    for secret in (SECRET_KEY, "wrong-secret", "Signature=", "AWSAccessKeyId"):
        assert secret not in shown
    return str(error.value), took_s


def test_a_store_that_keeps_its_promises_is_accepted_in_one_line(
    seaweed: Seaweed, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        report = probe_store(StoreAddress.parse(seaweed.url("probed")))
    assert (report.creates_once, report.presigns) == (True, True)
    assert [record.message for record in caplog.records] == [
        "the object store s3://tensorus/probed keeps its promises (plain HTTP, conditional PUT kept, presigned requests yes)"
    ]
    assert list(ObjectClient(StoreAddress.parse(seaweed.url("probed"))).objects("probe")) == []


def test_wrong_credentials_are_named(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    message, took_s = failure(seaweed.url("p"))
    assert message.startswith("the object store s3://tensorus/p refuses the credentials (HTTP 403")
    assert took_s < 10


def test_credentials_that_may_only_read_are_refused(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    message, _ = failure(seaweed.url("p"))
    assert "refuses the credentials" in message


def test_no_credentials_are_named(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # What a cloud's own machines would be asked for.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    message, took_s = failure(seaweed.url("p"))
    assert message.startswith("the object store s3://tensorus/p has no credentials")
    assert took_s < 25


def test_a_missing_bucket_is_named(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    # The administrator's first object would make it.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "writer")
    message, took_s = failure(f"s3://missing/p?endpoint={seaweed.endpoint}")
    assert message.startswith("the object store s3://missing/p ")
    assert took_s < 10


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_deleting_from_a_missing_bucket_is_an_error(seaweed: Seaweed, names: list[str]) -> None:
    client = ObjectClient(StoreAddress.parse(f"s3://no-such-bucket/x?endpoint={seaweed.endpoint}&region=us-east-1"))
    with pytest.raises(StoreUnavailableError, match="has no bucket no-such-bucket"):
        client.delete(names)


def test_a_bucket_that_the_service_says_is_missing_is_named(seaweed: Seaweed) -> None:
    body = b"<Error><Code>NoSuchBucket</Code></Error>"
    with HttpProxy(seaweed.port, lambda _: Treatment("status", 404, body=body)) as proxy:
        message, _ = failure(f"s3://missing/p?endpoint={proxy.endpoint}")
    assert message == "the object store s3://missing/p has no bucket missing; create it, or correct the address"


def test_an_endpoint_that_nobody_listens_on_is_named_in_bounded_time() -> None:
    message, took_s = failure("s3://bucket/p?endpoint=http://127.0.0.1:1")
    assert message.startswith("the object store s3://bucket/p is not reachable: the connection was refused")
    assert took_s < 25


def test_a_service_that_never_answers_is_named_in_bounded_time(seaweed: Seaweed) -> None:
    limits = RequestLimits(attempt_s=0.3, attempts=3, total_s=2.0)
    with HttpProxy(seaweed.port, lambda _: Treatment("delay", seconds=2.0)) as proxy:
        message, took_s = failure(f"s3://tensorus/p?endpoint={proxy.endpoint}", limits)
    assert message.startswith("the object store s3://tensorus/p does not answer in time")
    assert took_s < 10


def test_a_service_that_ignores_ranges_is_refused(seaweed: Seaweed) -> None:
    rule = lambda request: Treatment("no_range") if request.method == "GET" else None  # noqa: E731
    with HttpProxy(seaweed.port, rule) as proxy:
        message, _ = failure(f"s3://tensorus/{new_prefix()}?endpoint={proxy.endpoint}")
    assert "ignores which range of an object is requested" in message


def test_a_service_that_lists_late_is_refused(seaweed: Seaweed) -> None:
    empty = b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>'

    def empty_listing(request: Passed) -> Treatment | None:
        return Treatment("status", 200, body=empty) if "list-type=2" in request.path else None

    with HttpProxy(seaweed.port, empty_listing) as proxy:
        message, _ = failure(f"s3://tensorus/{new_prefix()}?endpoint={proxy.endpoint}")
    assert "breaks a promise that is needed, that it lists what was just stored" in message


def test_a_service_that_returns_other_bytes_is_refused(seaweed: Seaweed) -> None:
    def other_bytes(request: Passed) -> Treatment | None:
        is_object = request.method == "GET" and "list-type" not in request.path
        return Treatment("status", 200, body=b"x" * 4096) if is_object else None

    with HttpProxy(seaweed.port, other_bytes) as proxy:
        message, _ = failure(f"s3://tensorus/{new_prefix()}?endpoint={proxy.endpoint}")
    assert "breaks a promise that is needed, that it returns what was stored" in message


def test_a_service_that_ignores_conditions_is_accepted_and_works(
    seaweed: Seaweed, make_store: MakeStore, prefix: str
) -> None:
    with HttpProxy(seaweed.port, lambda _: Treatment("no_condition")) as proxy:
        url = f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}"
        assert not probe_store(StoreAddress.parse(url)).creates_once
        store = make_store(url=url)
        with store.open(written(store, b"payload")) as reader:
            assert reader.read(0, 7) == b"payload"


def test_a_service_that_cannot_delete_many_objects_at_once_is_refused_and_can_be_used_without(
    seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = b'<?xml version="1.0"?><DeleteResult><Error><Code>NotImplemented</Code></Error></DeleteResult>'

    def no_bulk(request: Passed) -> Treatment | None:
        return Treatment("status", 200, body=answer) if request.method == "POST" else None

    with HttpProxy(seaweed.port, no_bulk) as proxy:
        url = f"s3://tensorus/{new_prefix()}?endpoint={proxy.endpoint}"
        message, _ = failure(url)
        assert "cannot delete several objects at once; set AWS_DISABLE_BULK_DELETE=true" in message
        monkeypatch.setenv("AWS_DISABLE_BULK_DELETE", "true")
        assert probe_store(StoreAddress.parse(url)).creates_once


def test_a_service_that_is_full_says_so(seaweed: Seaweed) -> None:
    with HttpProxy(seaweed.port, lambda _: Treatment("status", 507)) as proxy:
        client = ObjectClient(StoreAddress.parse(f"s3://tensorus/p?endpoint={proxy.endpoint}"))
        with pytest.raises(StorageFullError, match="the object store s3://tensorus/p is full"):
            client.put("name", b"x")


def test_a_request_ends_within_the_time_that_the_log_waits_for_late_ones() -> None:
    assert PUT_S_MAX == RequestLimits().total_s + RequestLimits().attempt_s == 60.0


FORKED = """
import os, sys
from support.write_log import MemoryWriteLog
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.errors import StoreUnavailableError
store = ObjectChunkStore(sys.argv[1], writes=MemoryWriteLog())
assert store.read_identity() is None
if os.fork() == 0:
    try:
        store.read_identity()
    except StoreUnavailableError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
assert store.read_identity() is None
assert store.close(10)
"""


def test_a_forked_process_is_told_and_its_parent_goes_on(seaweed: Seaweed) -> None:
    path = os.pathsep.join([*sys.path, "tests"])
    ended = subprocess.run(
        [sys.executable, "-c", FORKED, seaweed.url(new_payload_key())],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "was opened before this process was forked, and cannot be used in it" in ended.stdout


def test_the_library_is_imported_by_the_first_request_alone() -> None:
    code = (
        "import sys, tensorus_server.app; from tensorus_server.chunk_store.objects.store import ObjectChunkStore;"
        "from support.write_log import MemoryWriteLog;"
        "ObjectChunkStore('memory://tests', writes=MemoryWriteLog()); assert 'obstore' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, "tests"])}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def test_attempts_retries_and_failures_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ObjectClient(StoreAddress.parse("memory://bucket"), RequestLimits(attempts=3, backoff_s=0.0))
    client.put("a", b"1")
    with pytest.raises(PayloadMissingError):
        client.get("absent", 0, 1)
    assert (client.requests, client.retries.total(), client.failures.total()) == ({"put": 1, "get": 1}, 0, 0)
    monkeypatch.setattr(client, "_failure", lambda _library, _error: _FailureError("is away", again=True))
    with pytest.raises(StoreUnavailableError, match="is away"):
        client.get("absent", 0, 1)
    assert (client.requests["get"], client.retries["get"], client.failures["get"]) == (4, 2, 1)
