"""Sockets of the data path: who owns a descriptor, and every byte that is not yet sent.

connection      one established socket with its write buffer, half-closes and lingering close (send_queue)
loop, poller    which descriptors are ready
tls_loop        the loop of a connection that is encrypted: records to plaintext and back (tls_records, openssl_records)
tls_handshake   what comes before: tls_server, tls_client (tls_files, tls_settings, tls_tickets, tls_peer, tls_chain,
                tls_errors)
proxy_protocol  the header by which proxies name their clients (unix_text)
client_hello    the name that a TLS client asks for
socket_options  what the kernel is told about connections
pipes           between sockets, for what nobody looks at
"""
