"""What a restart costs: hotproxy, nginx, HAProxy and Envoy under one fleet of clients, or a proxy of your own.

    make bench-restart               half an hour; `make bench-restart QUICK=1` some minutes
    python -m bench.restart --help

    fleet      the clients                                   systems/   the proxies, and how each is restarted
    trial      the fleet through restarts of one proxy       watch      memory, and who is gone when
    loaded     a restart at 70 % load                        plan       how a trial goes, and where
    accounts   what the clients saw, as figures              report     Markdown and JSON     plots   SVG

docs/restart-bench.md says what the figures mean, and how a proxy of your own is described.
"""
