"""Notices of the platform: a host is about to be taken away.

Compute Engine, and so a Cloud TPU's virtual machine, tells them on its metadata
server: https://docs.cloud.google.com/compute/docs/metadata/getting-live-migration-notice
and `instance/preempted` for a machine that may be preempted. This thread asks,
and turns a notice into the SIGTERM that stops a run in good order.
"""

import http.client
import os
import signal
import sys
import threading
import urllib.error
import urllib.request

# Where Google's own libraries look for another server.
_HOST_VARIABLE = 'GCE_METADATA_HOST'
_HOST = 'metadata.google.internal'

# What is asked, by what is a notice.
_NOTICES = {
  'maintenance-event': 'TERMINATE_ON_HOST_MAINTENANCE',
  'preempted': 'TRUE',
}

# What it is met by where no server answers, or another than that.
_NO_ANSWER = (OSError, http.client.HTTPException, UnicodeDecodeError)

# Seconds between two looks: a preemption is told half a minute ahead.
_EVERY = 5.0


class Notices:
  """A thread that sends this process SIGTERM where a notice comes.

  One that is there when it starts is of a run that was stopped for it, and is
  gone on with: it is said, and not heeded again. Use as a context manager.

  Args:
    every: seconds between two looks.
  """

  def __init__(self, every: float = _EVERY):
    self._every = every
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self):
    """Starts to look.

    Raises:
      ValueError: where there is no metadata server.
    """
    host = os.environ.get(_HOST_VARIABLE, _HOST)
    try:
      self._known = self._look()
    except _NO_ANSWER as error:
      raise ValueError(
        f'--maintenance: {host} does not answer ({error}); accepted: machines '
        'of Compute Engine, or no --maintenance'
      ) from error
    for name in sorted(self._known):
      _say(f'{name} is {_NOTICES[name]} already, and is not heeded')
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._closed.set()
    if self._thread.is_alive():
      self._thread.join()

  def _watch(self):
    while not self._closed.wait(self._every):
      try:
        found = self._look()
      # It is busy, or away for a moment: the next look tells.
      except _NO_ANSWER:
        continue
      new = found - self._known
      self._known = found
      if new:
        name = sorted(new)[0]
        _say(f'{name} is {_NOTICES[name]}')
        os.kill(os.getpid(), signal.SIGTERM)

  def _look(self):
    """The notices that stand, by name."""
    return {name for name, word in _NOTICES.items() if _read(name) == word}


def _say(text):
  print(f'imagen-jax: notice of the platform: {text}', file=sys.stderr)


def _read(name):
  """A value of the metadata server; '' where it has none.

  Raises:
    Exception: one of `_NO_ANSWER`.
  """
  host = os.environ.get(_HOST_VARIABLE, _HOST)
  request = urllib.request.Request(
    f'http://{host}/computeMetadata/v1/instance/{name}',
    headers={'Metadata-Flavor': 'Google'},
  )
  try:
    with urllib.request.urlopen(request, timeout=5) as answer:
      return answer.read().decode().strip()
  except urllib.error.HTTPError as error:
    if error.code == 404:
      return ''
    raise
