"""The worker's half of a daemon: what runs on this host, and what is local to it."""
