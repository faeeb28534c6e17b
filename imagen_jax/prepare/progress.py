"""How far a pipeline is, as the files tell that it writes."""

from collections.abc import Iterator
import contextlib
import sys
import threading

import tqdm

from imagen_jax.prepare import folder
from imagen_jax.shards import files

# Seconds between looks at a folder. Of a bucket each lists it.
_LOCAL, _REMOTE = 1, 30


@contextlib.contextmanager
def shown(out: str, kind: str, what: str, unit: str, total: int) -> Iterator:
  """Shows a bar on a terminal while the context lasts.

  Args:
    out: the folder of the build.
    kind: of files that are counted.
    what: is done.
    unit: of what.
    total: how many there will be.
  """
  if not sys.stderr.isatty():
    print(f'{what}: {total} {unit}', flush=True)
    yield
    return
  ended = threading.Event()
  wait = _REMOTE if files.is_remote(out) else _LOCAL
  with tqdm.tqdm(desc=what, unit=f' {unit}', total=total) as bar:

    def look():
      while not ended.wait(wait):
        bar.update(folder.done(out, kind) - bar.n)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
      yield
    finally:
      ended.set()
      thread.join()
      bar.update(folder.done(out, kind) - bar.n)
