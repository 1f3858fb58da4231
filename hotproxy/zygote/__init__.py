"""The zygote: a generation's mould. It loads code and config once, freezes, and forks the processes that work.

    program   what it forks: the seam to the rest of hotproxy, and to the stand-ins of the tests
    declare   config -> HELLO, and the real program
    slots     who accepts on which socket, and how long a dying slot waits: pure
    child     one forked process
    tickets   the secret of TLS sessions, for those who are forked
    main      the conversation with the supervisor and with the children

No event loop and no thread may exist here: a fork copies only the thread that calls it.
"""
