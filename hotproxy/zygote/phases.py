r"""How far a zygote is.

    asking --sockets are here--> warming --all READY--> ready --ACCEPT_ON--> opening --all ACCEPTING--> serving
                                    |                     |                     |                  ACCEPT_OFF |
                                    \--a child died-------+--> failed           \--a child died---------> yielded
                                                                                           draining <--DRAIN--/

Without a supervisor one that serves goes on serving (`orphan`), one that has not begun ends itself.
"""

from __future__ import annotations

import enum


class Phase(enum.IntEnum):
    ASKING = 0
    WARMING = 1
    READY = 2
    OPENING = 3
    SERVING = 4
    YIELDED = 5
    DRAINING = 6
    FAILED = 7


# What it says of itself to another supervisor.
KNOWN_AS = {Phase.SERVING: "serving", Phase.YIELDED: "yielded", Phase.DRAINING: "draining"}
