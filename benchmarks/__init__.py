"""Throughput, latency, CPU, disk bytes and memory beside other NBD servers, measured in one run on one disk: `make bench`."""
