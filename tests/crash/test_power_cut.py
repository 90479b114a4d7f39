"""The power goes while clients write: what was acknowledged is there and exact, and nothing is there by halves.

At a random acknowledgement the disk loses what it has not written, the server is killed, the disk is mounted again, and the
next round goes on with the same store. `support/power_trial.py` has the clients, `support/power_mutants.py` servers that must
be found out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.power import Disk, Kind
from support.power_mutants import MUTANTS, SWEEPS_OFTEN
from support.power_trial import WRITERS, Trial
from support.servers import ServerProcess

_log = logging.getLogger(__name__)
"""For figures: `--log-cli-level=INFO` shows them."""

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

CUTS = 50
MUTANT_CUTS = 25
"""After which a mutant counts as not found out."""

SERVERS: dict[str, Callable[[Path], ServerProcess]] = {
    "one process": ServerProcess,
    "two workers": lambda folder: ServerProcess(folder, workers=2),
    "swept": lambda folder: ServerProcess(folder, program=["-c", SWEEPS_OFTEN]),
}


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    kind: Kind = request.param
    made = Disk(tmp_path, kind)
    yield made
    made.close()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("servers", SERVERS)
def test_cuts_lose_nothing_that_was_acknowledged(disk: Disk, servers: str) -> None:
    check_cuts(disk, servers, CUTS)


@pytest.mark.parametrize(("disk", "servers"), [("ext4", "swept"), ("xfs", "two workers")], indirect=["disk"])
def test_two_cuts_lose_nothing_that_was_acknowledged(disk: Disk, servers: str) -> None:
    check_cuts(disk, servers, 2, acknowledgements_max=60)


def check_cuts(disk: Disk, servers: str, cuts: int, *, acknowledgements_max: int = 150) -> None:
    with Trial(disk, SERVERS[servers], acknowledgements_max=acknowledgements_max) as trial:
        for number in range(cuts):
            trial.round(thorough=number == cuts - 1)
            assert trial.violations == []
        orphans = trial.check_files()
    _log.info("%s; %d orphans", trial.describe(), orphans)
    assert trial.violations == []
    assert trial.compared > cuts * WRITERS
    # At most what each cut left between the publishing of a group and its commit.
    assert orphans <= cuts * WRITERS


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_server_that_breaks_a_rule_is_found_out(disk: Disk, mutant: str) -> None:
    found: set[str] = set()
    with Trial(disk, lambda folder: ServerProcess(folder, program=["-c", MUTANTS[mutant]])) as trial:
        while not found and trial.cuts < MUTANT_CUTS:
            trial.round(thorough=True)
            # Operations may fail before the cut, because of what the mutant does.
            found = {what for what, _ in trial.violations} - {"failed"}
    _log.info("%s: %s; %s", mutant, trial.describe(), [one for one in trial.violations if one[0] in found][:3])
    assert found
