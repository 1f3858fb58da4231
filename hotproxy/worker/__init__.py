"""A worker process: one slot of one generation, serving traffic on one event loop.

main      the process: its loop, its tick, its conversation with the zygote
build     from a config to live objects; the only file that knows all classes
certificates   files that change while it serves, ticket keys whose time is over
drain     how a worker comes to its end
handoff   connections that move: giver and taker (by the tables in handoff_states), departures, records
"""
