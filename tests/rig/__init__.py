"""What tests stand on: the real daemon as a process, the real command line, clients that others wrote, repeatable bytes."""
