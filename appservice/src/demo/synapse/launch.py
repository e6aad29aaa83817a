"""Runs Synapse in this process, and ends it when the process that started it has gone.

Usage: launch.py LOCK_FILE [Synapse's own arguments]

Standard input is a pipe that nobody writes to. It closes when the starting process ends, even by kill -9.
The lock keeps a second Synapse off the same folder; the operating system frees it when this process ends.
"""

import fcntl
import gc
import os
import signal
import sys
import threading
import time

# Known to the starting process.
EXIT_FOLDER_IN_USE = 3
SECONDS_TO_STOP = 10


def end_with_starter():
    """Waits for the end of standard input, then stops Synapse: kindly, or else at once."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_STOP)
    os._exit(1)


def main():
    os.umask(0o077)
    lock_file = sys.argv.pop(1)
    lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(EXIT_FOLDER_IN_USE)
    threading.Thread(target=end_with_starter, daemon=True).start()

    # The slow part of the start, more than a second; collecting garbage meanwhile would find none.
    gc.disable()
    from synapse.app import homeserver

    gc.enable()
    homeserver.main()


main()
