"""Volumes and their instants as block devices of this machine (docs/decisions/0008-attach.md)."""
