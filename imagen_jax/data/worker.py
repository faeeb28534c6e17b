"""A generator run ahead of its consumer, by a thread."""

import queue
import threading


class Worker:
  """A thread that runs a generator a few items ahead.

  Args:
    items: an endless generator.
    ahead: items that may wait for `get`.
  """

  def __init__(self, items, ahead):
    self._ready = queue.Queue(ahead)
    self._stop = threading.Event()
    self._failed = None
    self._thread = threading.Thread(
      target=self._run, args=(items,), name='data loader', daemon=True
    )
    self._thread.start()

  def _run(self, items):
    try:
      for item in items:
        if not self._put((item, None)):
          return
    # Whatever it was, it belongs to the consumer, who raises it again.
    except BaseException as error:
      self._put((None, error))
    finally:
      items.close()

  def _put(self, entry):
    while not self._stop.is_set():
      try:
        self._ready.put(entry, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def get(self):
    """Returns the next item, or raises what the generator raised."""
    if self._failed is None:
      item, self._failed = self._ready.get()
    if self._failed is not None:
      raise self._failed
    return item

  def close(self):
    """Stops the thread, and closes the generator."""
    self._stop.set()
    self._thread.join()
