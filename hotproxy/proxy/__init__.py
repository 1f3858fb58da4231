"""The straight pipe from an accepted connection to an endpoint and back (docs/architecture.md, "Life of a request").

listener            accepts, counts, and keeps the open connections of one listener
filter_chain        what every kind of connection offers to its listener
tcp_proxy           carries bytes to one cluster
connection_manager  HTTP: codec events to streams and back
stream, router      one request with its response; where it goes
route               which route a request takes
snapshot, runtime   the live config, and what every connection is given
"""
