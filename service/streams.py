"""When answers that stay open must end: a process that is to stop does not wait for its readers."""

import threading

stopping = threading.Event()
"""Set once this process answers nothing new."""
