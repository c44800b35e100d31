"""The command line: one file a verb. What a verb means is in cdp/store.py; here are words, arguments and print."""
