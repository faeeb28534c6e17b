"""Where hosts meet in a save, and learn that one of them has failed.

Orbax has all hosts wait for each other once they have written. One that cannot
write does not come, and the others would wait for it, and training for them,
until its limit: twenty minutes.
"""

import collections
import threading
import time

import jax
from jax._src import distributed
import orbax.checkpoint as ocp

# Seconds between looks whether a host has failed.
_LOOK = 1
# Where hosts meet in a save, by Orbax's words: when all have written, and when
# the first has made the checkpoint complete. To other meetings all come, even
# those that have failed.
_WRITTEN, _COMPLETE = 'async_write_complete', 'async_commit_complete'
# Saves of each name so far; the same on all hosts, which save together.
_saves = collections.Counter()


class FailedElsewhere(RuntimeError):
  """Another host cannot write, and says why."""


class Gate:
  """A barrier of the saves of one folder, which a host's failure ends for all.

  Args:
    name: that no other folder of the run has.
  """

  def __init__(self, name: str):
    self._name, self._complete = name, False
    # What `jax.experimental.multihost_utils` has of it cannot be called off.
    self._client = distributed.global_state.client

  def begin(self):
    """Another save begins, as all hosts say once the one before has ended."""
    if jax.process_count() > 1 and jax.process_index() == 0:
      self._client.key_value_delete(self._key(''))
    _saves[self._name] += 1
    self._complete = False

  def fail(self):
    """Tells the other hosts that this one cannot write."""
    if jax.process_count() > 1:
      self._client.key_value_set(
        self._key('failed'), str(jax.process_index()), allow_overwrite=True
      )

  def watch(self, handler):
    """Has an Orbax handler tell of what it cannot write; returns it.

    It keeps its class, by which Orbax finds the arguments that it takes.
    """
    save = handler.async_save

    async def async_save(*args, **kwargs):
      futures = await save(*args, **kwargs)
      return [_Watched(each, self.fail) for each in futures or ()]

    handler.async_save = async_save
    return handler

  def meet(self, *, key: str, timeout_ms: int):
    """Returns when all hosts have come; Orbax's `barrier_sync_fn`.

    Args:
      key: of this meeting, within a save.
      timeout_ms: for which it waits.

    Raises:
      FailedElsewhere: where a host has failed.
      TimeoutError: where not all have come.
    """
    if _WRITTEN not in key and _COMPLETE not in key:
      ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)
    elif jax.process_count() > 1:
      self._wait(key, timeout_ms / 1000)
      self._complete = _COMPLETE in key
      if not self._complete:
        here = threading.current_thread()
        threading.Thread(target=self._follow, args=(here,), daemon=True).start()

  def _wait(self, key, seconds):
    deadline = time.monotonic() + seconds
    come, open_ = self._key(f'{key}/come'), self._key(f'{key}/open')
    if self._client.key_value_increment(come, 1) == jax.process_count():
      self._client.key_value_set(open_, '1', allow_overwrite=True)
    while not self._found(open_, _LOOK):
      if self._found(self._key('failed')):
        raise FailedElsewhere('another host cannot write, and says why')
      if time.monotonic() > deadline:
        raise TimeoutError(f'not all hosts have come to {key} in {seconds:g} s')

  def _follow(self, thread):
    """Tells the others where a save's thread ends before it is complete."""
    number = _saves[self._name]
    thread.join()
    if not self._complete and number == _saves[self._name]:
      self.fail()

  def _key(self, name):
    return f'imagen_jax_save/{self._name}/{_saves[self._name]}/{name}'

  def _found(self, key, seconds=0):
    """Whether a key is set, or is within some seconds."""
    try:
      if seconds:
        self._client.blocking_key_value_get(key, round(1000 * seconds))
      else:
        self._client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
      if 'NOT_FOUND' in str(error) or 'DEADLINE_EXCEEDED' in str(error):
        return False
      raise
    return True


class _Watched:
  """A future of Orbax's kind that tells of what it fails at."""

  def __init__(self, future, tell):
    self._future, self._tell = future, tell

  def result(self, timeout=None):
    try:
      return self._future.result(timeout=timeout)
    except BaseException:
      self._tell()
      raise

  def cancel(self):
    return self._future.cancel()
