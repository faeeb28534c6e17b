"""Builds a text-image dataset on disk, in TFDS' format over ArrayRecord.

Every example is {'image': encoded bytes, 'captions': strings, 'key': string},
in two splits: 'train', and 'heldout' with what training must not see.
"""

import contextlib
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import time

import tqdm

from imagen_jax.synthetic import examples
from imagen_jax.synthetic import folder
from imagen_jax.synthetic import openmoji

DATASETS = ('shapes', 'openmoji', 'folder')
REPORT_FILE = 'report.json'
VERSION = '1.0.0'  # A change to what is drawn or written changes it.

# Small enough that a pod's hosts can copy a set in parallel; readers seek
# inside a shard, so nothing else hangs on it.
_EXAMPLES_PER_SHARD = 4096


def build(
  dataset: str,
  out: str | os.PathLike,
  *,
  num_examples: int | None = None,
  size: int | None = None,
  seed: int = 0,
  num_objects: int = 64,
  source: str | os.PathLike | None = None,
  progress: bool = True,
) -> dict:
  """Writes a dataset to the folder `out` and returns its report.

  The same arguments give the same bytes. Everything is written beside `out`
  and moved there at the end, so that a killed build leaves no half of a set.
  A finished set of the same arguments is kept.

  Args:
    dataset: one of `DATASETS`.
    out: the folder to write; its parents are made.
    num_examples: of the train split; the heldout split has 2% as many, at
      least 64 (or as many as train, if that is fewer). Of a folder: how many
      lines of its captions.jsonl are used, in order; None is all.
    size: pixels on a side; None for a folder, whose pictures stay as they are.
    seed: of all randomness; a folder uses none.
    num_objects: how many different objects 'openmoji' shows.
    source: the folder of pictures, for 'folder' alone.
    progress: show a progress bar.

  Returns:
    The report, which is also in report.json: 'parameters', 'num_train',
    'num_heldout', 'num_captions' (distinct ones, both splits), 'skipped' by
    reason, and 'attribution' where one is due.

  Raises:
    ValueError: for arguments that do not fit each other, a source that has
      nothing to use, or an `out` that holds something else.
  """
  parameters = _parameters(
    dataset, num_examples, size, seed, num_objects, source
  )
  out = pathlib.Path(out).absolute()
  kept = _existing(out, parameters)
  if kept is not None:
    print(f'{out} is already built: {_summary(kept)}')
    return kept
  started = time.monotonic()
  with _partial(out) as partial:
    report = _write(partial, parameters, progress)
    text = json.dumps(report, indent=2, ensure_ascii=False) + '\n'
    (partial / REPORT_FILE).write_text(text, encoding='utf-8')
    partial.rename(out)
  print(f'{out}: {_summary(report)} in {time.monotonic() - started:.1f} s')
  return report


def _parameters(dataset, num_examples, size, seed, num_objects, source):
  """Returns what the set is a function of, having checked it."""
  if dataset not in DATASETS:
    raise ValueError(
      f'dataset is {dataset!r}; accepted: {", ".join(map(repr, DATASETS))}'
    )
  if num_examples is not None and num_examples < 1:
    raise ValueError(f'num_examples is {num_examples}; accepted: 1 or more')
  parameters = {
    'dataset': dataset,
    'version': VERSION,
    'num_examples': num_examples,
  }
  if dataset == 'folder':
    if source is None:
      raise ValueError("source is not given; dataset 'folder' needs a folder")
    if size is not None:
      raise ValueError(
        f"size is {size} with dataset 'folder'; accepted: none, its "
        'pictures stay as they are'
      )
    return {
      **parameters,
      'source': str(pathlib.Path(source).resolve()),
      'captions_sha256': folder.digest(source),
    }
  if source is not None:
    raise ValueError(
      f'source is {os.fspath(source)!r} with dataset {dataset!r}; accepted: '
      "none, or dataset 'folder'"
    )
  if num_examples is None:
    raise ValueError(f'num_examples is not given; {dataset!r} needs a number')
  if size is None or not 16 <= size <= 4096:
    raise ValueError(f'size is {size}; accepted: 16 to 4096 pixels')
  if seed < 0:
    raise ValueError(f'seed is {seed}; accepted: 0 or more')
  parameters |= {'size': size, 'seed': seed}
  if dataset == 'openmoji':
    openmoji.choose_objects(num_objects)
    parameters['num_objects'] = num_objects
  return parameters


def _existing(out, parameters):
  """Returns the report of a finished set in `out`, or None if it is free."""
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return None
  try:
    report = json.loads((out / REPORT_FILE).read_text(encoding='utf-8'))
    was = report['parameters']
  except (OSError, ValueError, KeyError, TypeError):
    raise ValueError(
      f'{out} holds something that is no dataset of ours; accepted: a '
      'folder that is empty or not there yet'
    ) from None
  if was == parameters:
    return report
  differing = ', '.join(
    f'{name} {was.get(name)!r} there, {parameters.get(name)!r} asked for'
    for name in sorted({**was, **parameters})
    if was.get(name) != parameters.get(name)
  )
  raise ValueError(
    f'{out} holds another dataset ({differing}); accepted: another folder, '
    'or remove that one'
  )


@contextlib.contextmanager
def _partial(out):
  """Yields an empty folder beside `out`, removed again if not moved away."""
  partial = out.parent / f'.{out.name}.partial'
  try:
    partial.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f'{out} cannot be made ({error.strerror}); accepted: a folder that can '
      'be written'
    ) from error
  lock = os.open(partial, os.O_RDONLY)
  try:
    # The lock ends with its process: what a killed build left is ours.
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(lock)
    raise ValueError(
      f'{out} is being built by another process; accepted: one at a time'
    ) from None
  try:
    for entry in partial.iterdir():
      shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    yield partial
  finally:
    shutil.rmtree(partial, ignore_errors=True)
    os.close(lock)


def _write(partial, parameters, progress):
  """Writes both splits into `partial` and returns the report."""
  tally = folder.Tally()
  captions = set()
  numbers = dict.fromkeys(examples.SPLITS, 0)
  is_folder = parameters['dataset'] == 'folder'
  make = examples.from_folder if is_folder else examples.drawn
  with make(parameters, tally) as (total, splits):
    writer = _writer(partial, parameters)
    bar = tqdm.tqdm(
      total=total,
      desc=parameters['dataset'],
      unit=' pictures',
      disable=not progress,
    )
    with bar:
      for split, some in splits:
        while chunk := list(itertools.islice(some, examples.CHUNK)):
          writer.add_examples({split: chunk})
          numbers[split] += len(chunk)
          captions.update(c for example in chunk for c in example['captions'])
          bar.update(len(chunk))
      bar.total = bar.n  # Less what was skipped.
    writer.close_all()
  for split, number in numbers.items():
    if not number:
      reasons = ', '.join(f'{n} {why}' for why, n in tally.counts.items())
      raise ValueError(
        f'source {parameters["source"]} leaves no pictures for the {split} '
        f'split (skipped: {reasons or "none"}); accepted: two or more that '
        'can be used'
      )
  report = {
    'parameters': parameters,
    'num_train': numbers['train'],
    'num_heldout': numbers['heldout'],
    'num_captions': len(captions),
    'skipped': tally.to_dict(),
  }
  if parameters['dataset'] == 'openmoji':
    report['attribution'] = openmoji.ATTRIBUTION
  return report


def _summary(report):
  """Returns a report as one line."""
  skipped = ', '.join(
    f'{entry["count"]} {reason}' for reason, entry in report['skipped'].items()
  )
  return (
    f'{report["num_train"]} pictures to train on, {report["num_heldout"]} '
    f'held out, {report["num_captions"]} captions'
    + (f'; skipped: {skipped}' if skipped else '')
  )


def _writer(partial, parameters):
  """Returns a TFDS writer of ArrayRecord files into the folder `partial`."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  # TensorFlow takes seconds to import, and only this function needs it.
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

  dataset = parameters['dataset']
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=dataset,
    version=tfds.core.Version(VERSION),
    data_dir=os.fspath(partial),
    module_name='imagen_jax.synthetic.build',
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    description=f'Pictures and captions ({dataset}), built by imagen_jax.',
    license=openmoji.ATTRIBUTION if dataset == 'openmoji' else None,
    disable_shuffling=True,
    features=tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(shape=(None, None, 3)),
        'captions': tfds.features.Sequence(tfds.features.Text()),
        'key': tfds.features.Text(),
      }
    ),
  )
  writer = tfds.core.SequentialWriter(
    info,
    max_examples_per_shard=_EXAMPLES_PER_SHARD,
    file_format='array_record',
  )
  writer.initialize_splits(list(examples.SPLITS))
  return writer
