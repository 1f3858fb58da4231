"""Parts of the data path, timed with the very bytes and conversations that the tests are made of.

    make micro                       prints microseconds
    python -m bench.micro --profile  which functions one kept GET calls, as tests/proxy/test_proxy_budget.py counts them

No sockets, no second process: what is left is hotproxy's own work, and that of the fakes.
"""
