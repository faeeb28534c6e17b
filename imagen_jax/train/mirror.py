"""Files that grow, kept in a bucket."""

from concurrent import futures
import pathlib
import tempfile
import time

from imagen_jax import storage

# Between two copies, at least; so many may be missing in the bucket after a
# crash, and are not missed: a run resumes from a checkpoint, which waits.
_SECONDS = 60


class Mirror:
  """Copies the files of a local folder into a bucket as they grow.

  An object of a bucket cannot be appended to, it is written whole: so what
  grows is written here, and copied. A thread does so, as no step of a pod is
  to wait for one host's files.

  Attributes:
    folder: the local one, empty at first; gone when this is closed.
  """

  def __init__(self, place: str, field: str):
    """Makes the local folder.

    Args:
      place: of the copies, gs://...
      field: that names `place`, for errors.
    """
    self._place = place.rstrip('/')
    self._field = field
    self._kept = tempfile.TemporaryDirectory(prefix='imagen_jax_')
    self.folder = pathlib.Path(self._kept.name)
    self._copied = {}  # Of each file, its size and time when it was.
    self._pool = futures.ThreadPoolExecutor(1)
    self._running = None
    self._next = 0.0

  def fetch(self, name: str) -> None:
    """Copies a file of the bucket here, where there is one.

    Raises:
      ValueError: where the bucket cannot be read.
    """
    data = storage.read(f'{self._place}/{name}', self._field)
    if data is not None:
      (self.folder / name).write_bytes(data)

  def start(self) -> str:
    """Starts to copy what has changed, unless it did so a moment ago.

    Returns:
      Why the last copies failed, or ''; what failed is tried again.
    """
    failed = ''
    if self._running and self._running.done():
      failed = str(self._running.exception() or '')
      self._running = None
    if not self._running and time.monotonic() >= self._next:
      self._next = time.monotonic() + _SECONDS
      self._running = self._pool.submit(self._copy)
    return failed

  def finish(self) -> None:
    """Returns when all is in the bucket, which is asked for two minutes.

    Raises:
      ValueError: where it cannot be written. What is not there stays here, and
        is copied by a later call.
    """
    if self._running:
      futures.wait([self._running])
      self._running = None
    for wait in (*storage.WAITS, None):
      try:
        return self._copy()
      except ValueError:
        if wait is None:
          raise
        time.sleep(wait)

  def close(self) -> None:
    """Removes the local folder; waits for copies that are under way."""
    self._pool.shutdown()
    self._kept.cleanup()

  def _copy(self):
    for path in sorted(self.folder.rglob('*')):
      if not path.is_file():
        continue
      # By its time, too: some are written anew, in as many bytes.
      status = path.stat()
      seen = status.st_size, status.st_mtime_ns
      if seen == self._copied.get(path):
        continue
      data = path.read_bytes()
      name = path.relative_to(self.folder).as_posix()
      storage.write(f'{self._place}/{name}', data, self._field)
      self._copied[path] = seen
