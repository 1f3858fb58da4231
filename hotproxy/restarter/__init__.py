"""The supervisor: the oldest code running, and therefore the smallest.

It owns what must outlive every version of the proxy: the listening sockets, the shared-memory segment, the control
socket and the conversation with systemd. It never reads the config and never imports the data plane; a generation
tells it in HELLO what it must know, and asks for its sockets.

    frames, hello, outbox       messages and descriptors between the processes
    generation, actions         what happens to a generation, and when: a table, and what it does
    live, conversation          a generation's processes, and what they say
    restarts                    one at a time, and how each ended
    crash_signals               workers that crash too often in compiled code
    moves, recycling            connections on their way to other slots; one worker replaced
    faults                      processes that fail on demand, for tests
    sockets, bind, holders      the listening sockets
    ledger                      shared memory
    ticket_chain                the secret of TLS sessions
    requests, commands, status  signals and `supervisor.sock`
    supervisor, loop, spawn     all of it together
"""
