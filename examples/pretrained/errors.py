"""What the commands print in place of a traceback."""


class NotReadyError(Exception):
    """Something must be installed or run before; the message says what."""
