"""What is promised of hot restarts, counted over hours' worth of them: `make soak`.

    claim    a promise of docs/hot-restart.md, by its number there
    part     a module here: one proxy under one kind of load, and the figures of it
    figure   what came out, beside its bar

A figure that is *counted* (failed requests, resets, descriptors) has no excuse, and one missed bar fails the run. One
that is *measured* (times, memory at its peak) is the machine's as well: it is printed beside the worst gap of a process
that does nothing but look at the clock, and fails nothing.
"""
