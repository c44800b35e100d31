"""Clients that mean harm, and what they may not do to the others (docs/testing.md)."""
