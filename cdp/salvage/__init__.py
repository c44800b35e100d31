"""The reference reader: the second opinion on the on-disk format.

It is written from docs/format.md alone and shares no code with the engine (only cdp/errors.py, for exit codes). It opens
files read-only, takes no lock, asks no daemon and writes nothing into the store, so that it works on a store that is
read-only, was left dirty, or is in use.
"""
