"""Protocol buffer modules, generated from ``proto/`` by the build and never committed.

``warren.pb.v1`` is Warren's own schema, ``warren.pb.containerd`` the part of containerd's API that
Warren calls.
"""
