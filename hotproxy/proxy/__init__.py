"""The straight pipe from an accepted connection to an endpoint and back (docs/architecture.md, "Life of a request").

listener            accepts, counts, and keeps the open connections of one listener
filter_chain        what every kind of connection offers to its listener
introduction        a trusted proxy's connection, until its PROXY header has said who the client is
tls_accept          one that shakes hands; client_certificate: who it has proven to be, for the origin
tcp_proxy, tcp_leg  carries bytes to one cluster; by which of them: tcp_routes
splice              the same without copying, for bulk
connection_manager  HTTP: codec events to streams and back
stream              one request with its response
router, held_body   where it goes, and what is kept to send it again
tunnel              what an upgraded connection carries
forwarding          what becomes of headers on their way through
route               which route a request takes
snapshot, runtime   the live config, and what every connection is given
"""
