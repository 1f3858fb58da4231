r"""What happens to a generation, and when. No processes here: events in, actions out.

    starting --HELLO--> warming --READY--> opening --ACCEPTING--> active --a newer one accepts--> yielding
        \                  \                   \                    |                                |
         \--broken----------\--> failed         \--broken--+        |zygote died         ACCEPT_STOPPED or 2 s
                                   |                       |        v                                v
                                 empty                     |     orphaned --a newer one accepts-> (yielding)
                                   v                       v                                         |
                                 gone <--- empty --- draining <--MOVED or 30 s-- moving <--SHUT_DONE or 2 s-- shutting

Whatever goes wrong before `opening` is a generation that accepted nothing: it is killed. One that fails in `opening`
may hold connections: it drains. Its predecessor is told of neither. In `orphaned` the zygote is dead and its slots
serve on; from there on the supervisor talks to the slots itself, and every later step is the same.
"""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    STARTING = "starting"  # exec'd, nothing heard yet
    WARMING = "warming"  # it has its sockets and forks
    OPENING = "opening"  # begins to accept, beside its predecessor
    ACTIVE = "active"
    ORPHANED = "orphaned"  # its zygote is dead
    YIELDING = "yielding"  # stops accepting
    SHUTTING = "shutting"  # removed listeners: takes what waits in their queues
    MOVING = "moving"  # its connections go to its successor
    DRAINING = "draining"
    FAILED = "failed"  # killed, not all gone yet
    GONE = "gone"


class Event(enum.Enum):
    HELLO = "HELLO"
    READY = "READY"
    ACCEPTING = "ACCEPTING"
    ACCEPT_STOPPED = "ACCEPT_STOPPED"
    SHUT_DONE = "SHUT_DONE"
    MOVED = "moved"  # what could be moved was, on every channel
    BROKEN = "broken"  # it said FAILED, was refused its sockets, broke the protocol
    ZYGOTE_DIED = "zygote died"
    DEADLINE = "deadline"
    RETIRE = "retire"  # a newer one accepts, or the supervisor stops
    EXPIRE = "expire"  # no more patience: room is needed, or the operator said so
    EMPTY = "empty"  # no process of it is left


class Action(enum.Enum):
    GIVE_SOCKETS = enum.auto()
    ACCEPT_ON = enum.auto()
    SUCCEED = enum.auto()  # it serves: retire the others, tell who waits
    FAIL = enum.auto()  # tell who waits why
    GIVE_BACK = enum.auto()  # its new sockets: to the predecessor, or closed
    ACCEPT_OFF = enum.auto()
    SHUT = enum.auto()
    DROP_REMOVED = enum.auto()  # the supervisor's own copies of the removed sockets
    MOVE = enum.auto()  # its connections, to its successor
    YIELDED = enum.auto()  # the successor is alone now
    DRAIN = enum.auto()
    DRAIN_NOW = enum.auto()
    KILL = enum.auto()
    REPLACE = enum.auto()  # start the same generation afresh
    COMPLAIN = enum.auto()  # it said something out of place: log it
    FORGET = enum.auto()


Step = tuple[State, tuple[Action, ...]]

S, E, A = State, Event, Action
_KILLED: Final[Step] = (S.FAILED, (A.GIVE_BACK, A.KILL, A.FAIL))
_LET_GO: Final[Step] = (S.DRAINING, (A.GIVE_BACK, A.ACCEPT_OFF, A.DRAIN, A.FAIL))
_ALONE: Final[Step] = (S.MOVING, (A.DROP_REMOVED, A.MOVE))
_HANDED_OVER: Final[Step] = (S.DRAINING, (A.DRAIN, A.YIELDED))
_GONE_EARLY: Final[Step] = (S.GONE, (A.DROP_REMOVED, A.YIELDED, A.FORGET))

_MESSAGES: Final = (E.HELLO, E.READY, E.ACCEPTING, E.ACCEPT_STOPPED, E.SHUT_DONE)
_TROUBLE: Final = (E.MOVED, E.BROKEN, E.ZYGOTE_DIED, E.DEADLINE, E.RETIRE, E.EXPIRE)


def _row(state: State, steps: dict[Event, Step]) -> dict[tuple[State, Event], Step]:
    """A whole row: a message where it has no place is complained about, every other event changes nothing."""
    row: dict[tuple[State, Event], Step] = {}
    for event in Event:
        unexpected = (state, (A.COMPLAIN,) if event in _MESSAGES or event is E.BROKEN else ())
        row[state, event] = steps.get(event, unexpected)
    return row


# A generation that is not accepting yet breaks by any message out of turn: it has other ideas of the protocol.
_OUT_OF_TURN: Final = dict.fromkeys((*_MESSAGES, *_TROUBLE), _KILLED)

TRANSITIONS: Final[dict[tuple[State, Event], Step]] = {
    **_row(S.STARTING, {**_OUT_OF_TURN, E.HELLO: (S.WARMING, (A.GIVE_SOCKETS,)), E.EMPTY: _KILLED}),
    **_row(S.WARMING, {**_OUT_OF_TURN, E.READY: (S.OPENING, (A.ACCEPT_ON,)), E.EMPTY: _KILLED}),
    **_row(
        S.OPENING,
        {
            **dict.fromkeys((*_MESSAGES, *_TROUBLE, E.EMPTY), _LET_GO),
            E.ACCEPTING: (S.ACTIVE, (A.SUCCEED,)),
        },
    ),
    **_row(S.ACTIVE, {E.RETIRE: (S.YIELDING, (A.ACCEPT_OFF,)), E.ZYGOTE_DIED: (S.ORPHANED, (A.REPLACE,))}),
    **_row(S.ORPHANED, {E.RETIRE: (S.YIELDING, (A.ACCEPT_OFF,)), E.EMPTY: (S.GONE, (A.FORGET,))}),
    **_row(
        S.YIELDING,
        {
            E.ACCEPT_STOPPED: (S.SHUTTING, (A.SHUT,)),
            E.DEADLINE: (S.SHUTTING, (A.SHUT,)),
            E.EXPIRE: (S.YIELDING, ()),
            E.EMPTY: _GONE_EARLY,
        },
    ),
    **_row(S.SHUTTING, {E.SHUT_DONE: _ALONE, E.DEADLINE: _ALONE, E.EMPTY: _GONE_EARLY}),
    **_row(
        S.MOVING,
        {
            **dict.fromkeys((E.ACCEPT_STOPPED, E.SHUT_DONE), (S.MOVING, ())),  # late, as in `draining`
            E.MOVED: _HANDED_OVER,
            E.DEADLINE: _HANDED_OVER,
            E.EMPTY: (S.GONE, (A.YIELDED, A.FORGET)),
        },
    ),
    **_row(
        S.DRAINING,
        {
            # Late answers: whoever was stopped when it was asked gives them when it runs again.
            **dict.fromkeys((E.ACCEPT_STOPPED, E.SHUT_DONE, E.ACCEPTING, E.BROKEN), (S.DRAINING, ())),
            E.DEADLINE: (S.FAILED, (A.KILL,)),
            E.EXPIRE: (S.DRAINING, (A.DRAIN_NOW,)),
            E.EMPTY: (S.GONE, (A.FORGET,)),
        },
    ),
    **_row(S.FAILED, {**dict.fromkeys((*_MESSAGES, E.BROKEN), (S.FAILED, ())), E.EMPTY: (S.GONE, (A.FORGET,))}),
    **_row(S.GONE, {}),
}

# A generation that breaks the rules here is refused; later it is only told so.
ON_TRIAL: Final = (S.STARTING, S.WARMING, S.OPENING)
# Those who hold the listening sockets' queues.
ACCEPTING_STATES: Final = (S.OPENING, S.ACTIVE, S.ORPHANED, S.YIELDING)


def step(state: State, event: Event) -> Step:
    """The next state, and what to do on the way, in order."""
    return TRANSITIONS[state, event]
