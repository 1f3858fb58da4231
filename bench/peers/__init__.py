"""hotproxy beside nginx, HAProxy and Envoy, with the same features switched on in each.

    make bench                       about a quarter of an hour; `make bench QUICK=1` about two minutes
    python -m bench.peers --help

    proxies    how each of them is configured and started         native     C programs, compiled on demand:
    origin     the nginx behind all of them                         passthrough   the floor: bytes copied, no HTTP
    processes  pinned to a CPU, weighed, ended by PID               open_loop     requests at times of their own
    cases      what is measured, round by round                   figures    medians of ratios; which rounds count
    report     Markdown and JSON                                  plots      PNG
    machine    what it was measured on

The proxy has one CPU for itself; load generator and origin share the other one. Machines are noisy, so the proxies take
turns within each round, and what counts is the ratio to nginx within a round, then the median over the rounds.
"""
