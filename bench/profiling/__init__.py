"""Where the CPU time of a request goes: hotproxy's worker under wrk, sampled by `perf`.

    make profile                     half a minute; writes profile.md and profile.svg into OUT
    python -m bench.profiling --help

    __main__   starts proxy, origin and load as `make bench` does, samples, and puts it together
    stacks     what `perf script` says, as stacks; and the groups of the table
    flame      the flame graph
    supervisor hotproxy's own, where Python can name its functions to perf

Shares are those of the samples; microseconds are they times the CPU time per request, which is measured without perf.
With Python 3.12 and later the interpreter tells perf the names of Python functions (`-X perf`, which costs some time of
its own): a stack then begins at the innermost one of them. With 3.11 there are only those of C.
"""
