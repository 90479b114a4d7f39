"""What the role `Leases` promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tensorus_server.chunk_store.abc import Leases, PayloadBusyError, new_payload_key


class LeasesContract:
    """What the role `Leases` promises within one process. A subclass supplies the fixture `leases`."""

    def test_a_lease_is_had_once_until_it_is_released(self, leases: Leases) -> None:
        key = new_payload_key()
        for _ in range(3):
            leases.acquire(key)
            with pytest.raises(PayloadBusyError, match=key):
                leases.acquire(key)
            leases.release(key)

    def test_leases_of_other_payloads_do_not_matter(self, leases: Leases) -> None:
        first, second = new_payload_key(), new_payload_key()
        leases.acquire(first)
        leases.acquire(second)
        leases.release(first)
        with pytest.raises(PayloadBusyError, match=second):
            leases.acquire(second)

    def test_releasing_what_is_not_held_does_nothing(self, leases: Leases) -> None:
        key = new_payload_key()
        leases.release(key)
        leases.acquire(key)

    def test_of_many_threads_one_gets_the_lease(self, leases: Leases) -> None:
        key = new_payload_key()

        def acquire(_: int) -> bool:
            try:
                leases.acquire(key)
            except PayloadBusyError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(acquire, range(64))) == 1

    def test_a_process_alone_has_no_other_users(self, leases: Leases) -> None:
        leases.acquire(new_payload_key())
        assert not leases.has_other_users()

    def test_leases_may_be_closed_twice(self, leases: Leases) -> None:
        leases.acquire(new_payload_key())
        leases.close()
        leases.close()
