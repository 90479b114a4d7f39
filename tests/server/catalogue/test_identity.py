"""A store is opened only where the catalogue has all that was acknowledged of its payloads; nothing is deleted on one word."""

from __future__ import annotations

import logging
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import random_bits
from support.engine import engine_on, insert, read
from support.faults import open_descriptors
from support.old_catalogue import OLD_COLUMNS, old_checksum
from support.servers import engine_config
from support.stores import remove_open_store
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.app import open_engine
from tensorus_server.catalogue.sqlite.epoch import EpochKeeper
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.session_locks import SessionLocks
from tensorus_server.engine.sweep import Swept
from tensorus_server.errors import StoreUnavailableError

pytestmark = pytest.mark.slow

IN_A_FILE = random_bits("uint8", (200_000,))
INLINE = random_bits("uint8", (100,))

BACK_TO_3 = """
DROP TRIGGER tensor_kept;
DROP TRIGGER tensor_replaced;
DROP TRIGGER tensor_forgotten;
DROP TRIGGER content_forgotten;
DROP TRIGGER tombstone_unreferenced;
DROP TRIGGER tensor_owned;
DROP TRIGGER tensor_disowned;
DROP TRIGGER dataset_disowned;
DROP TABLE owner;
DROP TABLE quota;
DROP TABLE access_grant;
DROP TABLE token;
DROP TABLE access_version;
DROP TRIGGER reference_kept;
DROP TABLE pack;
DROP TABLE begun;
DROP TABLE lease;
DROP TABLE member;
DROP TABLE past_attr;
DROP TABLE past_payload;
DROP TABLE past_tensor;
DROP TABLE history;
DROP TABLE snapshot;
DROP TABLE content;
DROP TABLE payload_base;
ALTER TABLE dataset DROP COLUMN retention_us;
DROP TABLE reference;
ALTER TABLE upload_chunks DROP COLUMN details;
DROP TABLE store;
DROP INDEX dataset_deleted;
ALTER TABLE dataset DROP COLUMN deleted_us;
ALTER TABLE upload DROP COLUMN announced;
ALTER TABLE upload DROP COLUMN outcome;
ALTER TABLE upload DROP COLUMN row_checksum;
ALTER TABLE dataset DROP COLUMN row_checksum;
ALTER TABLE tensor RENAME COLUMN row_checksum TO row_crc;
DELETE FROM schema_version WHERE version > 3;
"""
"""What later versions of the schema added, undone."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def opened(folder: Path, **settings: object) -> Engine:
    return open_engine(engine_config(folder, **settings))


def filled(folder: Path, first: int, last: int) -> None:
    """Store tensors of these numbers, each in a file of its own, and close the store."""
    engine = opened(folder)
    if first == 0:
        engine.create_dataset("d", StoragePolicy(preset="none"))
    for number in range(first, last):
        insert(engine, "d", f"{number}", IN_A_FILE[number:])
    engine.close()


def crashed(folder: Path, copy: Path, *, array: object = IN_A_FILE) -> None:
    """Make `copy` what a crash leaves of a store with two tensors that are in the log alone."""
    engine = opened(folder)
    engine.create_dataset("d", StoragePolicy(preset="none"))
    for number in range(2):
        insert(engine, "d", f"{number}", array[number:])  # type: ignore[index]
    shutil.copytree(folder, copy)
    engine.close()


def assert_refused(folder: Path, message: str, *, payloads: int | None = None) -> None:
    """Check that opening is refused, changes nothing that matters, and leaves nothing open."""
    before = state(folder)
    with pytest.raises(StoreUnavailableError, match=message) as caught:
        opened(folder)
    assert state(folder) == before
    assert open_descriptors(folder) == []
    for way_out in ("catalogue.db-wal", f"tensorus recover {folder}", f"tensorus gc {folder} --accept-loss"):
        assert way_out in str(caught.value)
    if payloads is not None:
        assert len(RawFolder(folder).published()) == payloads
        assert f"({payloads} payload" in str(caught.value)


def state(folder: Path) -> dict[str, bytes]:
    """Return what lies in a store, without what every opening makes and removes."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if not name.endswith(("-shm", ".lock")) and content}


class TestLoss:
    """Each of these deleted every payload within a second of the opening."""

    def test_payloads_without_a_catalogue_are_refused(self, folder: Path) -> None:
        filled(folder, 0, 3)
        for path in folder.glob("catalogue.db*"):
            path.unlink()
        assert_refused(folder, "there is no catalogue", payloads=3)
        assert not (folder / "catalogue.db").exists()

    def test_payloads_beside_an_empty_catalogue_are_refused(self, folder: Path) -> None:
        filled(folder, 0, 3)
        (folder / "catalogue.db").write_bytes(b"")
        assert_refused(folder, "there is no catalogue", payloads=3)

    def test_payloads_without_a_catalogue_and_an_identity_are_refused(self, folder: Path) -> None:
        filled(folder, 0, 3)
        (folder / "catalogue.db").unlink()
        (folder / "chunks" / "store").unlink()
        assert_refused(folder, "there are 3 payloads, and there is no catalogue", payloads=3)

    def test_an_older_catalogue_beside_newer_payloads_is_refused(self, folder: Path, tmp_path: Path) -> None:
        filled(folder, 0, 2)
        shutil.copy(folder / "catalogue.db", tmp_path / "older.db")
        filled(folder, 2, 4)
        shutil.copy(folder / "catalogue.db", tmp_path / "newer.db")
        shutil.copy(tmp_path / "older.db", folder / "catalogue.db")
        assert_refused(
            folder, r"is older than its payloads: it is at epoch \d+, the payloads are at epoch \d+", payloads=4
        )
        # What was refused can be put right.
        shutil.copy(tmp_path / "newer.db", folder / "catalogue.db")
        engine = opened(folder)
        assert all((read(engine, "d", f"{number}") == IN_A_FILE[number:]).all() for number in range(4))
        engine.close()

    @pytest.mark.parametrize("array", [IN_A_FILE, INLINE], ids=["in files", "inline"])
    def test_a_catalogue_without_its_log_is_refused_until_the_log_is_back(
        self, folder: Path, tmp_path: Path, array: object
    ) -> None:
        copy = tmp_path / "copy"
        crashed(folder, copy, array=array)
        log = (copy / "catalogue.db-wal").read_bytes()
        (copy / "catalogue.db-wal").unlink()
        (copy / "catalogue.db-shm").unlink()
        assert_refused(copy, "no catalogue|older than its payloads", payloads=2 if array is IN_A_FILE else 0)
        (copy / "catalogue.db-wal").write_bytes(log)
        engine = opened(copy)
        for number in range(2):
            assert (read(engine, "d", f"{number}") == array[number:]).all()  # type: ignore[index]
        engine.close()

    def test_a_catalogue_of_another_store_is_refused(self, folder: Path, tmp_path: Path) -> None:
        filled(folder, 0, 2)
        filled(tmp_path / "other", 0, 2)
        shutil.copy(tmp_path / "other" / "catalogue.db", folder / "catalogue.db")
        assert_refused(folder, "the catalogue is of store [0-9a-f]{32}, and the payloads are of store [0-9a-f]{32}")

    def test_a_catalogue_whose_payloads_are_elsewhere_is_refused(self, folder: Path) -> None:
        filled(folder, 0, 2)
        shutil.rmtree(folder / "chunks")
        with pytest.raises(StoreUnavailableError, match="has tensors in chunks/, and chunks/ is empty"):
            opened(folder)

    def test_a_damaged_identity_is_refused_by_name(self, folder: Path) -> None:
        filled(folder, 0, 2)
        (folder / "chunks" / "store").write_bytes(b"x" * 1024)
        with pytest.raises(StoreUnavailableError, match=r"chunks/store, which says .* is damaged"):
            opened(folder)


class TestAcceptedLoss:
    """Whoever accepts a loss gets a store that works, and the payloads that are unknown wait for a week."""

    def lose(self, folder: Path, tmp_path: Path) -> None:
        filled(folder, 0, 2)
        shutil.copy(folder / "catalogue.db", tmp_path / "older.db")
        filled(folder, 2, 4)
        shutil.copy(folder / "catalogue.db", tmp_path / "newer.db")
        shutil.copy(tmp_path / "older.db", folder / "catalogue.db")

    def test_what_the_catalogue_knows_stays_and_the_rest_is_set_aside(self, folder: Path, tmp_path: Path) -> None:
        self.lose(folder, tmp_path)
        engine = opened(folder, accept_loss=True)
        assert all((read(engine, "d", f"{number}") == IN_A_FILE[number:]).all() for number in range(2))
        assert len(RawFolder(folder).published()) == 2
        assert len(engine.quarantine.entries()) == 2
        engine.sweep()
        assert engine.quarantine_orphans().deleted == 0
        engine.close()
        opened(folder).close()

    def test_the_catalogue_that_was_lost_is_then_of_another_store(self, folder: Path, tmp_path: Path) -> None:
        self.lose(folder, tmp_path)
        opened(folder, accept_loss=True).close()
        shutil.copy(tmp_path / "newer.db", folder / "catalogue.db")
        assert_refused(folder, "the catalogue is of store")

    def test_without_any_catalogue_all_is_set_aside_and_can_be_restored(self, folder: Path) -> None:
        filled(folder, 0, 3)
        keys = set(RawFolder(folder).published())
        (folder / "catalogue.db").unlink()
        engine = opened(folder, accept_loss=True)
        assert engine.list_datasets()[0] == []
        assert {entry.key for entry in engine.quarantine.entries()} == keys
        for entry in engine.quarantine.entries():
            engine.quarantine.restore(entry)
        assert set(RawFolder(folder).published()) == keys
        engine.close()

    def test_where_nothing_is_lost_nothing_changes(self, folder: Path) -> None:
        filled(folder, 0, 2)
        identity = (folder / "chunks" / "store").read_bytes()
        engine = opened(folder, accept_loss=True)
        assert engine.quarantine.entries() == []
        engine.close()
        assert (folder / "chunks" / "store").read_bytes()[:60] == identity[:60]
        assert len(RawFolder(folder).published()) == 2

    @pytest.mark.parametrize("damage", ["identity", "catalogue of another store"])
    def test_whatever_does_not_match_can_be_accepted(self, folder: Path, tmp_path: Path, damage: str) -> None:
        filled(folder, 0, 2)
        if damage == "identity":
            (folder / "chunks" / "store").write_bytes(b"")
        else:
            filled(tmp_path / "other", 0, 2)
            shutil.copy(tmp_path / "other" / "catalogue.db", folder / "catalogue.db")
        opened(folder, accept_loss=True).close()
        opened(folder).close()


class TestCrashBetween:
    """The catalogue is first, and the chunk store follows: a crash between the two loses nothing and is no refusal."""

    def test_a_catalogue_that_is_ahead_is_followed(self, folder: Path) -> None:
        filled(folder, 0, 2)
        before = (folder / "chunks" / "store").read_bytes()
        filled(folder, 2, 3)
        after = (folder / "chunks" / "store").read_bytes()
        assert after != before
        (folder / "chunks" / "store").write_bytes(before)
        engine = opened(folder)
        assert (read(engine, "d", "2") == IN_A_FILE[2:]).all()
        engine.close()

    def test_a_new_store_whose_identity_was_not_written_yet_gets_it(self, folder: Path) -> None:
        opened(folder).close()
        (folder / "chunks" / "store").unlink()
        opened(folder).close()
        assert (folder / "chunks" / "store").exists()

    def test_a_torn_write_of_the_identity_leaves_the_one_before(self, folder: Path) -> None:
        filled(folder, 0, 2)
        path = folder / "chunks" / "store"
        whole = path.read_bytes()
        for begin in (0, 512):
            path.write_bytes(whole[:begin] + b"torn" + whole[begin + 4 :])
            engine = opened(folder)
            assert engine.dataset_stats("d").tensors == 2
            engine.close()
            path.write_bytes(whole)
            engine = opened(folder)
            engine.close()


class TestAdoption:
    """A store of an older version gets an identity where catalogue and payloads agree."""

    @pytest.fixture
    def old(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        """Return what makes a store, of so many tensors, as versions left it that knew no identities."""

        def make(tensors: int) -> None:
            filled(folder, 0, tensors)
            (folder / "chunks" / "store").unlink()
            connection = apsw.Connection(str(folder / "catalogue.db"))
            connection.execute(BACK_TO_3).fetchall()
            names = ", ".join(f'"{name}"' for name in ("seq", "value_checksum", *OLD_COLUMNS))
            for row in connection.execute(f"SELECT {names} FROM tensor").fetchall():
                columns = dict(zip(("seq", "value_checksum", *OLD_COLUMNS), row, strict=True))
                checksum = old_checksum(columns)
                connection.execute("UPDATE tensor SET row_crc = ? WHERE seq = ?", (checksum, columns["seq"]))
            connection.close()

        return make

    def test_it_is_adopted_where_they_agree(self, folder: Path, old: Callable[[int], None]) -> None:
        old(3)
        engine = opened(folder)
        assert all((read(engine, "d", f"{number}") == IN_A_FILE[number:]).all() for number in range(3))
        engine.close()
        (folder / "catalogue.db").unlink()
        assert_refused(folder, "there are payloads of store")

    @pytest.mark.parametrize(("orphans", "adopted"), [(1, True), (2, False)])
    def test_a_few_payloads_that_a_crash_left_are_no_disagreement(
        self, folder: Path, old: Callable[[int], None], orphans: int, *, adopted: bool
    ) -> None:
        old(10)
        for number in range(orphans):
            RawFolder(folder).plant(f"00/{number:032x}", b"x")
        if adopted:
            opened(folder).close()
        else:
            assert_refused(folder, "there are 12 payloads, and the catalogue does not know 2 of them", payloads=12)

    def test_one_that_is_empty_is_not_adopted(self, folder: Path, old: Callable[[int], None]) -> None:
        old(2)
        connection = apsw.Connection(str(folder / "catalogue.db"))
        connection.execute("DELETE FROM tensor; DELETE FROM dataset").fetchall()
        connection.close()
        assert_refused(folder, "there are 2 payloads, and the catalogue does not know 2 of them", payloads=2)

    def test_one_from_before_the_upgrade_is_refused_after_it(
        self, folder: Path, tmp_path: Path, old: Callable[[int], None]
    ) -> None:
        old(2)
        shutil.copy(folder / "catalogue.db", tmp_path / "old.db")
        opened(folder).close()
        shutil.copy(tmp_path / "old.db", folder / "catalogue.db")
        assert_refused(folder, "the catalogue is a copy from before an upgrade", payloads=2)


class TestModes:
    """Nobody but the owner reads a store."""

    @pytest.fixture(autouse=True)
    def _usual_umask(self) -> Iterator[None]:
        import os  # noqa: PLC0415 - for the umask alone

        before = os.umask(0o022)
        yield
        os.umask(before)

    def assert_private(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path

    def test_every_file_of_a_store_is_its_owner_s_alone(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        engine = opened(folder)
        engine.create_dataset("d", StoragePolicy(preset="none"))
        insert(engine, "d", "inline", INLINE)
        insert(engine, "d", "file", IN_A_FILE)
        self.assert_private(folder)
        engine.close()
        self.assert_private(folder)

    def test_an_older_store_is_repaired(self, folder: Path) -> None:
        filled(folder, 0, 1)
        (folder / "catalogue.db").chmod(0o644)
        (folder / "uploads").chmod(0o755)
        engine = opened(folder)
        insert(engine, "d", "inline", INLINE)
        self.assert_private(folder)
        engine.close()


class TestRemovedFolder:
    """A store whose folder is removed under it takes no more writes, and says so once."""

    def test_writes_fail_and_background_work_ends_quietly(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        # Without a sweeper of its own, which could run between the two steps of the removal.
        engine = opened(folder, sweeps=False)
        engine.create_dataset("d", StoragePolicy(preset="none"))
        remove_open_store(folder)
        with pytest.raises(StoreUnavailableError, match="the store's folder was removed while it was open"):
            insert(engine, "d", "t", INLINE)
        with pytest.raises(StoreUnavailableError, match="the store's folder was removed while it was open"):
            engine.check_writable()
        engine._sweeper.run()
        engine.close()
        self.assert_said_once(folder, caplog)

    def test_a_sweep_in_which_the_folder_disappears_ends_quietly(
        self, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with engine_on(folder) as engine:
            sweep = engine.sweep

            def remove_and_sweep() -> Swept:
                remove_open_store(folder)
                return sweep()

            monkeypatch.setattr(engine, "sweep", remove_and_sweep)
            engine._sweeper.run()
        self.assert_said_once(folder, caplog)

    @staticmethod
    def assert_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert [
            (record.levelname, record.getMessage()) for record in caplog.records if record.levelno > logging.INFO
        ] == [("WARNING", f"the store's folder was removed while it was open; it takes no more writes [{folder}]")]
        assert "Traceback" not in caplog.text

    def test_an_idle_store_notices_it(self, folder: Path) -> None:
        engine = opened(folder)
        remove_open_store(folder)
        engine._catalogue.maintain(idle=True)
        with pytest.raises(StoreUnavailableError, match="folder was removed"):
            engine.check_writable()
        engine.close()

    def test_a_folder_that_was_made_anew_in_its_place_is_another_one(self, folder: Path) -> None:
        engine = opened(folder)
        engine.create_dataset("d")
        remove_open_store(folder)
        other = opened(folder)
        with pytest.raises(StoreUnavailableError, match="folder was removed"):
            engine.create_dataset("e")
        engine.close()
        assert other.list_datasets()[0] == []
        other.close()


def test_an_opening_that_fails_at_its_last_step_leaves_nothing_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SessionLocks, "__init__", fail)
    with pytest.raises(StoreUnavailableError, match=r"cannot open a store in .*Permission denied"):
        open_engine(engine_config(folder), ask=lambda *_: None)
    assert open_descriptors(folder) == []
    assert list((folder / "tmp").iterdir()) == []


def test_a_commit_that_the_chunk_store_cannot_follow_is_not_acknowledged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(folder)
    engine.create_dataset("d", StoragePolicy(preset="none"))
    engine._catalogue.maintain(idle=True)

    def fail(*_: object) -> None:
        raise StoreUnavailableError("could not write the store's identity: Input/output error")

    monkeypatch.setattr(EpochKeeper, "publish", fail)
    with pytest.raises(StoreUnavailableError, match="outcome of a commit is unknown until a restart"):
        insert(engine, "d", "t", INLINE)
    with pytest.raises(StoreUnavailableError, match="takes no more writes"):
        engine.check_writable()
    engine.close()
