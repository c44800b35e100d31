"""The daemon's control API on a Unix socket, and its client."""
