"""The accounts file on the disk: read again when it changes, and changed in one step."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit.web.accounts import NOBODY, Accounts, AccountsError, Token, read, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_BYTES = 16 << 20
"""Of the file."""

LOOK_SECONDS = 1.0
"""So often, at the most, the file is looked at for changes."""

_logger = logging.getLogger(__name__)


def load(path: Path) -> tuple[Accounts, os.stat_result]:
    """What the file says, and which file that was. Raises AccountsError, also where others may read or write it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise AccountsError(f"{path}: there is no such file; policyd-rate-limit web-user add NAME makes it") from error
    except OSError as error:
        raise AccountsError(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, encoding="utf-8") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise AccountsError(f"{path}: expected a file")
        if facts.st_mode & 0o027:
            raise AccountsError(
                f"{path}: expected a file that its owner alone may write, and others may not read (mode 0600 or 0640),"
                f" found mode {stat.S_IMODE(facts.st_mode):04o}"
            )
        if facts.st_uid not in (0, os.geteuid()):
            raise AccountsError(f"{path}: expected a file of root or of this account, found one of uid {facts.st_uid}")
        try:
            text = file.read(MOST_BYTES + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise AccountsError(f"{path}: {error}") from error
    if len(text) > MOST_BYTES:
        raise AccountsError(f"{path}: expected at most {MOST_BYTES} bytes")
    try:
        return read(text), facts
    except AccountsError as error:
        raise AccountsError(f"{path}: {error}") from error


class AccountsFile:
    """The accounts as the file has them now. For many threads. ``clock``: a monotonic one, in seconds.

    With a file that cannot be used there are no accounts: nobody gets in until it can be again, which is logged.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._looked = float("-inf")
        self._accounts = NOBODY
        self._by_digest: dict[str, Token] = {}
        self._wrong = ""

    def current(self) -> Accounts:
        """What the file says, as of a second ago at the most."""
        with self._lock:
            now = self._clock()
            if now - self._looked >= LOOK_SECONDS:
                self._looked = now
                self._look()
            return self._accounts

    def token(self, digest: str) -> Token | None:
        """The token of this SHA-256; None: there is none."""
        self.current()
        return self._by_digest.get(digest)

    def _look(self) -> None:
        seen = _identity(self.path)
        if seen is not None and seen == self._seen:
            return
        self._seen = seen
        wrong = ""
        try:
            self._accounts, facts = load(self.path)
            self._seen = _of(facts)
        except AccountsError as error:
            self._accounts, wrong = NOBODY, str(error)
        self._by_digest = {one.digest: one for one in self._accounts.tokens.values()}
        if wrong and wrong != self._wrong:
            _logger.error("%s; until then nobody may log in", wrong)
        elif self._wrong and not wrong:
            _logger.warning("%s can be used again", self.path)
        self._wrong = wrong


@contextlib.contextmanager
def changing(path: Path, group: int | None = None) -> Iterator[Callable[[Accounts], None]]:
    """The means to put other accounts in place of those in the file, in one step; nobody else changes them meanwhile.

    ``group``: whose members may read the file that root makes (gid); None: nobody but its owner. Raises AccountsError.
    """

    def put(accounts: Accounts) -> None:
        try:
            _replace(path, written(accounts), group)
            _sync(path.absolute().parent)
        except OSError as error:
            raise AccountsError(f"{path}: cannot be written: {error.strerror}") from error

    with _locked(path.absolute().with_name(f".{path.name}.lock")):
        yield put


@contextlib.contextmanager
def _locked(beside: Path) -> Iterator[None]:
    """Nobody else does this meanwhile. The file ``beside`` is there for so long, and is opened by its owner alone.

    A lock of what others may read, as /etc itself, they could hold for ever, and nobody could be removed.
    """
    while True:
        try:
            lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise AccountsError(f"{beside}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_still(beside, lock):
                try:
                    yield
                finally:
                    beside.unlink()
                return
        finally:
            os.close(lock)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether ``path`` is the file that was opened: whoever has had the lock before has taken theirs away."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str, group: int | None) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if group is not None and os.geteuid() == 0:
                os.fchown(descriptor, 0, group)
                os.fchmod(descriptor, 0o640)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        return _of(path.stat())
    except OSError:
        return None


def _of(facts: os.stat_result) -> tuple[int, ...]:
    return (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size, facts.st_mode, facts.st_uid)
