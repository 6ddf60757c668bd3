"""Warren's schema, from ``proto/warren/v1``: one ``<file>_pb2`` a schema file."""
