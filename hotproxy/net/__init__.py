"""Sockets of the data path: who owns a descriptor, and every byte that is not yet sent.

connection  one established socket with its write buffer, half-closes and lingering close
poller      which descriptors are ready
"""
