"""What an operator sees: metrics, health, logs, and the small HTTP server that shows them."""
