"""Continuous data protection for block volumes. Importing this package loads nothing native."""

__version__ = "0.1.0"
