"""The calls of containerd that Warren makes, from ``proto/containerd``."""
