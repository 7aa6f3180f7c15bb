"""The tests' own directory for temporary files: in memory, seen by nobody else, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.programs import missing

SCRIPT = Path(__file__).resolve().parent.parent / "support" / "in_memory.sh"
TELL = 'echo "$TMPDIR"; stat --file-system --format %T "$TMPDIR"; touch "$TMPDIR/a file"; exit 7'


def run(tmp_path: Path, *before: str) -> tuple[str, str]:
    """The directory that a command gets, and the type of its file system; the command's own status comes back."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([*before, SCRIPT, "bash", "-c", TELL], env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 7
    directory, kind = done.stdout.splitlines()
    return directory, kind


@pytest.mark.needs_root
def test_it_is_in_memory_and_leaves_nothing(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"]).returncode:
        missing("this machine does not let root make namespaces")
    directory, kind = run(tmp_path)
    if directory == str(tmp_path):
        pytest.skip("this machine has too little memory to spare")
    assert Path(directory).parent == tmp_path
    assert kind == "tmpfs"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_root
def test_without_the_right_to_mount_it_stays_where_it_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    directory, _ = run(tmp_path, "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--no-new-privs")
    assert directory == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]
