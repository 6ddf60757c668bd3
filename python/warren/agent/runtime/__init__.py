"""What runs containers: one interface (``base``), containerd, and a simulation of it."""
