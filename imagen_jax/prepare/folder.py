"""The folder of a build: what is done in it, and what was left undone.

While a build goes on, its spools, facts and lists lie in `.build`; that goes
when the report, which is written last, is there.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import shutil
import tempfile

from imagen_jax.shards import files

FIELD = '--out'
REPORT = 'report.json'
_WORK = '.build'
_PARAMETERS = f'{_WORK}/parameters.json'
_SCRATCH = 'scratch'

# Kinds of files under `.build`, by range or shard.
SPOOL, FACTS, DROPPED, SHARDS = 'spool', 'facts', 'dropped', 'shards'
SUMMARY = 'summary.json'


def look(out: str) -> tuple[dict | None, dict | None]:
  """Returns the parameters of the build in a folder, and its report if done.

  Raises:
    ValueError: where the folder holds something else, or is of a kind that
      ArrayRecord does not read.
  """
  if files.is_remote(out) and not out.startswith('gs://'):
    raise ValueError(f'{FIELD} is {out!r}; accepted: a folder, or gs://...')
  there = files.names(out, FIELD)
  for name in (REPORT, _PARAMETERS):
    if name.split('/')[0] in there:
      found = _parameters(out, name)
      if found[0] is not None:
        return found
  # A build that was killed before it wrote anything leaves an empty folder.
  if there - {_WORK}:
    raise ValueError(
      f'{FIELD} {out} holds something that is no build of ours '
      f'({min(there)}); accepted: a folder that is empty or not there yet'
    )
  return None, None


def start(out: str, parameters: dict) -> dict | None:
  """Begins a build, or goes on with one; returns the report of a done one.

  Args:
    out: the folder: local, or gs://...
    parameters: what the build is a function of, as JSON has it.

  Raises:
    ValueError: where it holds something else, or another build.
  """
  was, report = look(out)
  if was is None:
    text = json.dumps(parameters, indent=2, sort_keys=True)
    files.write(files.join(out, _PARAMETERS), text.encode(), FIELD)
  else:
    _compare(out, was, parameters)
  return report


def _parameters(out, name):
  """Returns the parameters in a file of ours, and the report if it is one."""
  file = files.stat(files.join(out, name), FIELD)
  if file is None:
    return None, None
  try:
    whole = json.loads(file.read(0, file.size))
    if name == REPORT:
      return dict(whole['parameters']), whole
    return dict(whole), None
  except (ValueError, KeyError, TypeError):
    raise ValueError(
      f'{FIELD} {out} holds something that is no build of ours ({name}); '
      'accepted: a folder that is empty or not there yet'
    ) from None


def _compare(out, was, wanted):
  if was == wanted:
    return
  names = sorted({*was, *wanted})
  differing = ', '.join(
    f'{name} {_short(was.get(name))} there, {_short(wanted.get(name))} asked '
    'for'
    for name in names
    if was.get(name) != wanted.get(name)
  )
  raise ValueError(
    f'{FIELD} {out} holds another build ({differing}); accepted: another '
    'folder, or remove that one'
  )


def _short(value):
  text = json.dumps(value, sort_keys=True)
  return text if len(text) <= 60 else f'{text[:57]}...'


@contextlib.contextmanager
def locked(out: str) -> Iterator[None]:
  """Keeps a local folder from a second build; clears what a killed one left.

  Raises:
    ValueError: where another process builds it, or it cannot be made.
  """
  if files.is_remote(out):
    yield
    return
  try:
    os.makedirs(out, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
  except OSError as error:
    raise ValueError(
      f'{FIELD} {out} cannot be made ({error.strerror}); accepted: a folder '
      'that can be written'
    ) from error
  try:
    # The lock ends with its process.
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  except BlockingIOError:
    raise ValueError(
      f'{FIELD} {out} is being built by another process; accepted: one at a '
      'time'
    ) from None
  finally:
    os.close(handle)


def clear(out: str, tasks: Iterable[str]):
  """Makes the folders that workers write to, and clears halves of files."""
  if files.is_remote(out):
    return
  shutil.rmtree(_scratch(out), ignore_errors=True)
  for kind in (SPOOL, FACTS, DROPPED, SHARDS, _SCRATCH):
    os.makedirs(files.join(out, f'{_WORK}/{kind}'), exist_ok=True)
  for task in ('', *tasks):
    place = files.join(out, task).rstrip('/')
    os.makedirs(place, exist_ok=True)
    for name in files.names(place, FIELD):
      if '.tmp-' in name:
        os.remove(files.join(place, name))


def done(out: str, kind: str) -> int:
  """Returns how many files of a kind are whole."""
  there = files.names(files.join(out, f'{_WORK}/{kind}'), FIELD)
  return sum('.tmp-' not in name for name in there)


def is_done(out: str, kind: str, name: str) -> bool:
  """Returns whether a file of the build is there, and so is whole."""
  return files.stat(path(out, kind, name), FIELD) is not None


def path(out: str, kind: str, name: str = '') -> str:
  """Returns the address of a file of the build."""
  return files.join(out, f'{_WORK}/{kind}' + (f'/{name}' if name else ''))


def read(out: str, kind: str, name: str = '') -> bytes:
  """Returns what a file of the build holds.

  Raises:
    FileNotFoundError: where there is none.
    OSError: where storage does not give it.
  """
  address = path(out, kind, name)
  file = files.stat(address, FIELD)
  if file is None:
    raise FileNotFoundError(2, 'is gone while it is built', address)
  return file.read(0, file.size)


def write(out: str, kind: str, name: str, data: bytes):
  """Writes a file of the build: whole, or not at all."""
  files.write(path(out, kind, name), data, FIELD)


@contextlib.contextmanager
def writing(out: str, address: str) -> Iterator[str]:
  """Yields a local path; what is written there is moved to `address`.

  It is there whole, or not at all.
  """
  beside = None if files.is_remote(out) else _scratch(out)
  handle, local = tempfile.mkstemp(dir=beside)
  os.close(handle)
  try:
    yield local
    os.chmod(local, 0o644)  # As other files; a temporary one is its owner's.
    files.upload(local, address, FIELD)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.remove(local)


def finish(out: str):
  """Removes what only a build that goes on needs."""
  files.remove_folder(files.join(out, _WORK))


def _scratch(out):
  return files.join(out, f'{_WORK}/{_SCRATCH}')
