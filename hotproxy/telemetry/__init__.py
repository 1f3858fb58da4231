"""What can be seen from outside: statistics, and the access log.

stats        the tables of what is counted per listener and cluster; `prometheus` and `text` print them
stream_info  the one record of an exchange; `access_log` and its parts turn it into lines
tls_info     what a TLS handshake has agreed upon; `failure_log` tells of those that failed
"""
