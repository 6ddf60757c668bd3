"""Warren runs containers on a fleet of Linux hosts.

``warren.daemon`` is the daemon, ``warren.cli`` the command line. This module imports nothing: the
command line's start-up time is spent where it is needed.
"""

__version__ = "0.1.0"
