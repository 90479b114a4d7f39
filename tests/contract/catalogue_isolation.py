"""What every catalogue promises to those who read and write at once: one state per read, and generations in commit order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from contract.catalogue_promises import keeps
from support.engine import commit, create, stored_tensor
from tensorus_server.catalogue.abc import Catalogue, PageRequest
from tensorus_server.errors import AlreadyExistsError
from tensorus_server.model import Outcome, Tensor

GROUPS = 20
GROUP = 7
"""Tensors of a group: no divisor of a number that a part of it could add up to by chance."""

ALL = PageRequest(size=1000)


class CatalogueIsolationContract:
    """A subclass supplies the fixture `catalogue`."""

    @keeps(3, 4, 10)
    def test_a_reader_sees_all_of_a_group_or_nothing(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        done = threading.Event()

        def write() -> None:
            try:
                for group in range(GROUPS):
                    commit(catalogue, *(stored_tensor(dataset, f"{group}-{number}") for number in range(GROUP)))
            finally:
                done.set()

        def read(_: int) -> list[int]:
            counts = []
            while not done.is_set():
                counts.append(len(catalogue.tensors.page("dataset", ALL).tensors))
            return [*counts, len(catalogue.tensors.page("dataset", ALL).tensors)]

        with ThreadPoolExecutor(3) as threads:
            writing = threads.submit(write)
            for counts in threads.map(read, range(2)):
                assert all(count % GROUP == 0 for count in counts)
                # What was seen once stays.
                assert counts == sorted(counts)
                assert counts[-1] == GROUPS * GROUP
            writing.result()

    @keeps(4, 10)
    def test_a_reader_of_a_replacement_sees_one_of_the_two(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        (current,) = commit(catalogue, stored_tensor(dataset, "t"))
        done = threading.Event()

        def read() -> set[int]:
            seen = set()
            while not done.is_set():
                (found,) = catalogue.tensors.get("dataset", ["t"])
                assert isinstance(found, Tensor)
                seen.add(found.generation)
            return seen

        generations = {current.generation}
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(read)
            try:
                for _ in range(GROUPS):
                    (current,) = commit(catalogue, stored_tensor(dataset, "t", if_generation_match=current.generation))
                    generations.add(current.generation)
            finally:
                done.set()
            assert reading.result() <= generations

    @keeps(6, 10)
    def test_nothing_appears_any_more_up_to_the_latest_generation(self, catalogue: Catalogue) -> None:
        writers = 4
        datasets = [create(catalogue, f"{number}") for number in range(writers)]
        done = threading.Event()

        def write(number: int) -> None:
            for group in range(GROUPS):
                commit(catalogue, *(stored_tensor(datasets[number], f"{group}-{item}") for item in range(3)))

        def generations(latest: int) -> list[list[int]]:
            bounded = PageRequest(size=1000, generation_max=latest)
            return [catalogue.tensors.generations(dataset.name, bounded) for dataset in datasets]

        def read() -> list[tuple[int, list[list[int]]]]:
            seen = []
            while not done.is_set():
                latest = catalogue.tensors.latest_generation()
                seen.append((latest, generations(latest)))
            return seen

        with ThreadPoolExecutor(writers + 1) as threads:
            reading = threads.submit(read)
            try:
                list(threads.map(write, range(writers)))
            finally:
                done.set()
            seen = reading.result()
        assert all(generations(latest) == found for latest, found in seen)
        assert catalogue.tensors.latest_generation() == writers * GROUPS * 3

    @keeps(5, 10)
    def test_of_many_who_commit_an_id_one_inserts_it(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        together = threading.Barrier(8, timeout=30)

        def insert(number: int) -> Tensor | Exception:
            tensor = stored_tensor(dataset, "t", metadata={"by": number})
            together.wait()
            (outcome,) = catalogue.tensors.commit([tensor])
            return outcome

        with ThreadPoolExecutor(8) as threads:
            outcomes = list(threads.map(insert, range(8)))
        inserted = [outcome for outcome in outcomes if isinstance(outcome, Tensor)]
        assert [tensor.outcome for tensor in inserted] == [Outcome.INSERTED]
        assert sum(isinstance(outcome, AlreadyExistsError) for outcome in outcomes) == 7
        assert catalogue.tensors.get("dataset", ["t"]) == inserted

    @keeps(5, 10)
    def test_of_many_who_create_a_dataset_one_does(self, catalogue: Catalogue) -> None:
        def make(_: int) -> bool:
            try:
                create(catalogue)
            except AlreadyExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(make, range(8))) == 1

    @keeps(6, 11)
    def test_the_order_of_commits_does_not_follow_a_clock_that_is_set_back(
        self, catalogue: Catalogue, set_clock_back: Callable[[float], None]
    ) -> None:
        dataset = create(catalogue)
        (first,) = commit(catalogue, stored_tensor(dataset, "first"))
        set_clock_back(1000.0)
        (second,) = commit(catalogue, stored_tensor(dataset, "second"))
        assert second.created_us < first.created_us
        assert second.generation > first.generation
        assert catalogue.tensors.page("dataset", ALL).tensors == [first, second]

    @keeps(9)
    def test_a_deletion_that_is_repeated_deletes_nothing_more(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, name) for name in "abc"))
        assert catalogue.tensors.delete("dataset", ["a", "b"]) == ["a", "b"]
        assert catalogue.tensors.delete("dataset", ["a", "b", "c"]) == ["c"]
        assert catalogue.tensors.delete("dataset", ["a", "b", "c"]) == []
        assert len(catalogue.garbage.due(10, in_grace=True)) == 3
