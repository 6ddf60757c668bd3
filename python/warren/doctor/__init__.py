"""What `warrenctl doctor` looks at: readings of this host and its daemon, and pure verdicts."""
