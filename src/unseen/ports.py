"""Where to listen."""

import socket

from unseen.errors import InputError


def find_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        InputError: it cannot be listened at.
    """
    try:
        with socket.create_server((host, port)) as listening:
            return int(listening.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"nothing can be served at {host}:{port} ({reason}): give another --port or --host"
        ) from None
