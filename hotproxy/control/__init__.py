"""The control process: what is done once per generation and not once per worker.

http_server  a small HTTP/1.1 server (h11) for the admin API and `hotproxy respond`; never on the data path
admin        what the admin API answers
main         the process
"""
