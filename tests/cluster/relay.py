"""Holds Ethernet frames back between an interface and a tap: `relay.py INTERFACE TAP MILLISECONDS`.

Runs in the switch's namespace between a host's port and the bridge. Both sides carry the kernel's
virtio header, so that a segment of 64 KiB and a checksum that is still to be filled in pass as they
are.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import sys
import time
from collections import deque

HEADER_BYTES = 10  # struct virtio_net_hdr
FRAME_BYTES_MAX = 128 * 1024
#: Beyond it frames are dropped, as by a cable that is too long for its traffic.
HELD_MAX = 8192

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x01, 0x02, 0x04


def packet_socket(interface: str) -> socket.socket:
    """What arrives at an interface, and what is to leave by it."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    made.bind((interface, 0))
    made.setblocking(False)
    return made


def tap(name: str) -> int:
    """A new tap; it goes when this process does."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    return fd


def relay(host_fd: int, tap_fd: int, delay_s: float) -> None:
    """Passes frames both ways, each after `delay_s`. Does not return."""
    other = {host_fd: tap_fd, tap_fd: host_fd}
    held: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait_s = max(0.0, held[0][0] - time.monotonic()) if held else None
        readable, _, _ = select.select([host_fd, tap_fd], [], [], wait_s)
        due_at = time.monotonic() + delay_s
        for fd in readable:
            try:
                frame = os.read(fd, FRAME_BYTES_MAX)
            except OSError:
                continue
            if len(frame) > HEADER_BYTES and len(held) < HELD_MAX:
                held.append((due_at, other[fd], frame))
        while held and held[0][0] <= time.monotonic():
            _, fd, frame = held.popleft()
            try:
                os.write(fd, frame)
            except OSError:
                continue  # a link that is down loses frames


if __name__ == "__main__":
    relay(packet_socket(sys.argv[1]).detach(), tap(sys.argv[2]), int(sys.argv[3]) / 1000)
