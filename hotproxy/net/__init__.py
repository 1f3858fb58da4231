"""Sockets of the data path: who owns a descriptor, and every byte that is not yet sent.

connection      one established socket with its write buffer, half-closes and lingering close
poller          which descriptors are ready
proxy_protocol  the header by which proxies name their clients
client_hello    the name that a TLS client asks for
socket_options  what the kernel is told about connections
pipes           between sockets, for what nobody looks at
"""
