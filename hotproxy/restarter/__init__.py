"""The supervisor: the oldest code running, and therefore the smallest.

It owns what must outlive every version of the proxy: the listening sockets, the shared-memory segment, the control
socket and the conversation with systemd. It never reads the config and never imports the data plane; a generation
tells it in HELLO what it must know, and asks for its sockets.

    frames      messages and descriptors between the processes
    generation  what happens to a generation, and when: a table
    sockets     the listening sockets, by (listener, address, slot)
    supervisor  the selector loop that ties them together
    systemd     notify, LISTEN_FDS, watchdog
"""
