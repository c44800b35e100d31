"""Tests against the kernel's own nbd driver, in a guest: the kernels that tests run on often have none (docs/testing.md)."""
