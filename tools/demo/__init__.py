"""`make demo`: a real file system with real files and a live database on a volume, wrecked, and taken back to the instant before."""
