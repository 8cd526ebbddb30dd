"""A lock that one process holds, and that its death releases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from routerd.runtime.lockfile import LockFile

HOLDER = """
import sys
from pathlib import Path
from routerd.runtime.lockfile import LockFile
print(LockFile(Path(sys.argv[1])).acquire() and "held", flush=True)
sys.stdin.read()
"""


def test_one_holds_it_and_the_next_gets_it_afterwards(tmp_path: Path) -> None:
    one, two = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    assert one.acquire()
    assert not two.acquire()
    one.release()
    one.release()
    assert two.acquire()
    two.release()


def test_who_is_killed_holds_it_no_longer(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock")
    with subprocess.Popen(
        # The lock object goes with its expression, and its descriptor stays: the process holds it.
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert not lock.acquire()
        process.kill()
        process.wait()
        assert lock.acquire()
        lock.release()
