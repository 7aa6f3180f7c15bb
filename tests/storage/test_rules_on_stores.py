"""Rules of all kinds on each store: two daemons, restarts and reloads, against the model of what rules promise."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from storage.installation import LogPlace, MariadbPlace, Place, PostgresqlPlace, RedisPlace, Running
from storage.logs import MariadbLogs, PostgresqlLogs
from storage.redis_stores import new_prefix
from storage.stores import Clock, in_memory
from support.examples import examples
from support.model_of_rules import Asked, Model, Said, as_text, refuses
from support.ruled import NOON, policy_of, request
from support.traffic import LONGEST, MAILS, RELOAD, WAIT, WAITS, Mail, Postfix, Step, changed, files, steps

KILL, RESTART = "kill", "restart"
START = NOON + 50.25  # in the middle of a second, shortly before the minute in which some rules begin to hold
EXAMPLES = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink an example takes minutes
)


class Installation:
    """Two daemons with one configuration, which one of them may have read later than the other."""

    def __init__(self, place: Place, said: Sequence[Said]) -> None:
        self._place = place
        self._model = Model()
        self.said = said
        self._in_force = [said, said]
        self._daemons = [self._started(), self._started()]

    def _started(self) -> Running:
        return Running(self._place, policy_of(as_text(self.said)), LONGEST)

    def put(self, which: int, asked: Asked) -> bool:
        """Whether the daemon refuses it."""
        others = {name: value for name, value in asked.items() if name not in ("protocol_state", "instance")}
        expected = self._model.ask(self._in_force[which], asked, self._place.clock.now)
        sent = request(str(asked["protocol_state"]), str(asked["instance"]), **others)
        assert self._daemons[which].action(sent) == expected.action
        assert self._daemons[which].warned == list(expected.warned)
        return refuses(expected.action)

    def reload(self, which: int) -> None:
        self._daemons[which].govern(policy_of(as_text(self.said)), LONGEST)
        self._in_force[which] = self.said

    def restart(self, which: int, *, kill: bool) -> None:
        daemon = self._daemons[which]
        if kill:
            daemon.die()
        else:
            daemon.close()
        self._daemons[which] = self._started()
        self._in_force[which] = self.said

    def end(self) -> None:
        for daemon in self._daemons:
            daemon.die()


def run(
    place: Place, said: Sequence[Said], mails: Sequence[Mail], happening: Sequence[Step], data: st.DataObject
) -> None:
    """Each answer is that of the model, whichever daemon gives it."""
    installation, postfix = Installation(place, said), Postfix(mails)
    with contextlib.ExitStack() as ending:
        ending.callback(installation.end)
        for number, step in enumerate(happening):
            kind, which = step[0], step[1] % 2
            if kind == WAIT:
                place.clock.now += WAITS[step[1]]
                if WAITS[step[1]] > 1:
                    postfix.drop_all()  # a restart forgets a mail whose charges have left all windows
            elif kind == RELOAD:
                installation.said = data.draw(changed(installation.said, number, longest=LONGEST))
                installation.reload(which)
            elif kind in (KILL, RESTART):
                installation.restart(which, kill=kind == KILL)
            for conversation, asked in postfix.requests(step):
                conversation.answered(refused=installation.put(which, asked))


@pytest.mark.parametrize(("kind", "runs"), [("sqlite", 15), ("postgresql", 3), ("mariadb", 3), ("redis", 8)])
def test_answers_are_those_of_the_model(kind: str, runs: int, request: pytest.FixtureRequest) -> None:
    """With windows that a reload makes no longer: what Redis keeps is no more than they need."""
    places: dict[str, Callable[[pathlib.Path, Clock, contextlib.ExitStack], Place]] = {
        "sqlite": lambda directory, clock, _: LogPlace(directory, clock),
        "postgresql": lambda directory, clock, ending: PostgresqlPlace(
            directory, clock, ending.enter_context(contextlib.closing(PostgresqlLogs(directory))).config
        ),
        "mariadb": lambda directory, clock, ending: MariadbPlace(
            directory, clock, ending.enter_context(contextlib.closing(MariadbLogs(directory))).config
        ),
        "redis": lambda directory, clock, _: RedisPlace(
            directory, clock, {"url": request.getfixturevalue("redis_url"), "prefix": new_prefix()}
        ),
    }

    @settings(EXAMPLES, max_examples=examples(runs))
    @given(
        said=files(longest=LONGEST),
        mails=st.lists(MAILS, min_size=1, max_size=6),
        happening=steps(RELOAD, KILL, RESTART),
        data=st.data(),
    )
    def check(said: tuple[Said, ...], mails: list[Mail], happening: list[Step], data: st.DataObject) -> None:
        with contextlib.ExitStack() as ending:
            directory = pathlib.Path(ending.enter_context(tempfile.TemporaryDirectory(dir=in_memory())))
            run(places[kind](directory, Clock(START), ending), said, mails, happening, data)

    check()
