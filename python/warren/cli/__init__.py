"""`warrenctl`: one file per noun, `client` for the wire, `render` for what is printed.

The modules of the nouns are imported when their name is typed, and what is heavy (grpc, protobuf,
rich, yaml) inside the commands: `--help` and completion cost little more than click itself.
"""
