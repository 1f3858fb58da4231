"""Towards the endpoints: which one, and how to get a connection to it.

endpoint       one address of a cluster, and what this worker has in progress there
load_balancer  which endpoint is next: one small class per policy
cluster        a named set of endpoints with its policy, timeouts and stats
connect        one non-blocking connect, without a task; tls_connect: with a handshake behind it
upstream_connection   a connection with its codec, for one request at a time
pool           keep-alive connections by endpoint
"""
