"""A manager's edges: API and sessions, passed to the core as the bytes that came."""
