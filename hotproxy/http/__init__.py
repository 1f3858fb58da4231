"""HTTP without I/O: bytes in, events out; events in, bytes out.

    head        start line + headers           event       RequestHead, ResponseHead, Data, Trailers, End, Violation
    framing     how a body is delimited        violation   the peer broke the protocol: a value, never an exception
    codec       one connection's protocol state; plain attributes, so that it can be dumped and loaded

Which file does what: `codec` the interface and the events, `headers` the field list, `http1_server` and `http1_client`
the two halves of HTTP/1.1, `head_parser` the seam to who reads heads, `head_encoder` how they are
written, `kernel` the choice between compiled and pure (`_kernel.pyx`), `syntax` what bytes are allowed,
`rules` what a head means (framing, keep-alive, Host, hop-by-hop fields), `body` chunks and lengths.
"""
