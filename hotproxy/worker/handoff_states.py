r"""Who owns a wave of connections while it moves, as two tables. No I/O here: events in, actions out.

    giver   idle --wave--> offering --PREPARED--> committing --COMMITTED--> idle ... --nothing left--> done
             ^   TAKEN: next part |                    |  no answer: STUCK, the taker is killed, still committing
             |                    | end, timeout,      | end of the channel: it never said COMMITTED
             |                    v nonsense           v
             |             done, all are mine again (thawed)

    taker   waiting --OFFER--> loading --last OFFER--> prepared --COMMIT--> COMMITTED said, then active --> waiting ...
               |                  \-- end, timeout, nonsense --/
               v                               v
              done                  done, what was loaded is forgotten

**Never two owners.** The taker touches a connection only after COMMITTED is on its way; the giver takes one back only
when no COMMITTED can come any more: before it has said COMMIT, or when the channel has ended without one (the kernel
gives out what was sent before an end). So after COMMIT a taker that does not answer must die before the giver goes on.

**Never none.** A taker that can't say COMMITTED because the giver is dead is the only one left, and goes on with them.
"""

from __future__ import annotations

import enum
from typing import Final


class Giving(enum.Enum):
    IDLE = "idle"  # between two waves: everything here is mine
    OFFERING = "offering"  # a wave is frozen; mine
    COMMITTING = "committing"  # COMMIT is on its way; mine or not
    LAST = "committing the last wave"  # as before, but nothing follows: this worker drains
    DONE = "done"


class Taking(enum.Enum):
    WAITING = "waiting"
    LOADING = "loading"  # parts of a wave are here
    PREPARED = "prepared"  # all of it is, and PREPARED was said
    DONE = "done"


class Heard(enum.Enum):
    """Events of both sides."""

    WAVE = "a wave is ready"  # giver: some connections are frozen
    NOTHING = "nothing is left"
    TAKEN = "TAKEN"
    PREPARED = "PREPARED"
    COMMITTED = "COMMITTED"
    OFFER = "OFFER"
    LAST_OFFER = "the last OFFER of a wave"
    COMMIT = "COMMIT"
    GONE = "the other side is gone"  # EOF, and nothing that was sent before it is unread
    NONSENSE = "a frame that breaks the rules"
    TIMEOUT = "no answer in time"
    STOP = "this worker must go on without"  # it drains


class Do(enum.Enum):
    OFFER = enum.auto()  # the next part of the wave
    COMMIT = enum.auto()
    RELEASE = enum.auto()  # the wave is the taker's; what it refused is thawed
    THAW = enum.auto()  # the wave is mine again
    STUCK = enum.auto()  # have the taker killed
    SUSPECT = enum.auto()  # have it looked at: it does not answer
    NEXT = enum.auto()  # look for another wave
    LOAD = enum.auto()
    SAY_TAKEN = enum.auto()
    SAY_PREPARED = enum.auto()
    COMMITTED = enum.auto()  # say so; if it can't be said because nobody is there, all the same
    DISCARD = enum.auto()  # what was loaded is not mine
    CLOSE = enum.auto()  # the channel, and tell the worker


GiverStep = tuple[Giving, tuple[Do, ...]]
TakerStep = tuple[Taking, tuple[Do, ...]]

G, T, H = Giving, Taking, Heard
_ANSWERS: Final = (H.TAKEN, H.PREPARED, H.COMMITTED)
_WRONG_WAY: Final = (H.OFFER, H.LAST_OFFER, H.COMMIT)  # what only a giver says
_OVER: Final[GiverStep] = (G.DONE, (Do.CLOSE,))
_BACK: Final[GiverStep] = (G.DONE, (Do.CLOSE, Do.THAW))


def _uncertain(state: Giving, after: tuple[Do, ...], then: Giving) -> dict[tuple[Giving, Heard], GiverStep]:
    """COMMIT was said: only COMMITTED and the end of the channel decide, and in the end a kill. A taker that says
    anything else gets nothing more; it may still say COMMITTED, and then it would be a pity to kill it."""
    return {
        **{(state, heard): (G.LAST, ()) for heard in (H.NONSENSE, H.TAKEN, H.PREPARED, *_WRONG_WAY, H.STOP)},
        (state, H.TIMEOUT): (state, (Do.STUCK,)),
        (state, H.COMMITTED): (then, (Do.RELEASE, *after)),
        (state, H.GONE): _BACK,
        (state, H.WAVE): (state, ()),
        (state, H.NOTHING): (state, ()),
    }


GIVING: Final[dict[tuple[Giving, Heard], GiverStep]] = {
    **{(G.IDLE, heard): _OVER for heard in Heard},
    (G.IDLE, H.WAVE): (G.OFFERING, (Do.OFFER,)),
    (G.IDLE, H.TIMEOUT): (G.IDLE, ()),
    **{(G.OFFERING, heard): _BACK for heard in Heard},
    (G.OFFERING, H.TAKEN): (G.OFFERING, (Do.OFFER,)),
    (G.OFFERING, H.PREPARED): (G.COMMITTING, (Do.COMMIT,)),
    (G.OFFERING, H.TIMEOUT): (G.DONE, (Do.SUSPECT, Do.CLOSE, Do.THAW)),
    (G.OFFERING, H.WAVE): (G.OFFERING, ()),
    (G.OFFERING, H.NOTHING): (G.OFFERING, ()),
    **_uncertain(G.COMMITTING, (Do.NEXT,), G.IDLE),
    **_uncertain(G.LAST, (Do.CLOSE,), G.DONE),
    **{(G.DONE, heard): (G.DONE, ()) for heard in Heard},
}

_END: Final[TakerStep] = (T.DONE, (Do.CLOSE,))
_FORGET: Final[TakerStep] = (T.DONE, (Do.DISCARD, Do.CLOSE))

TAKING: Final[dict[tuple[Taking, Heard], TakerStep]] = {
    **{(T.WAITING, heard): _END for heard in Heard},
    **{(T.LOADING, heard): _FORGET for heard in Heard},
    **{(T.PREPARED, heard): _FORGET for heard in Heard},
    **{(state, H.OFFER): (T.LOADING, (Do.LOAD, Do.SAY_TAKEN)) for state in (T.WAITING, T.LOADING)},
    **{(state, H.LAST_OFFER): (T.PREPARED, (Do.LOAD, Do.SAY_PREPARED)) for state in (T.WAITING, T.LOADING)},
    (T.PREPARED, H.COMMIT): (T.WAITING, (Do.COMMITTED,)),
    **{(T.DONE, heard): (T.DONE, ()) for heard in Heard},
}
