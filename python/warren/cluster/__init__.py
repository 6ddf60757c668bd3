"""What this host is in its cluster, and how that changes while the daemon runs."""
