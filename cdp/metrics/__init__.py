"""What the daemon measures, for Prometheus."""
