"""The page that runs a build, from a config to shards with their report."""

from collections.abc import Sequence
import dataclasses
import functools
import io
import json
import time

from imagen_jax import config as config_lib
from imagen_jax.prepare import folder
from imagen_jax.prepare import options as options_lib
from imagen_jax.prepare import plan as plan_lib
from imagen_jax.prepare import progress
from imagen_jax.prepare import report as report_lib
from imagen_jax.prepare import runner as runner_lib
from imagen_jax.prepare import sheets
from imagen_jax.prepare import sources
from imagen_jax.prepare import summary as summary_lib
from imagen_jax.shards import build as index_lib
from imagen_jax.shards import files
from imagen_jax.shards import place as place_lib

_FORMAT = 1


def build(
  config: config_lib.Config,
  out: str,
  options: options_lib.Options,
  *,
  tasks: Sequence[str] = (),
  runner: runner_lib.Runner = runner_lib.Runner(),
  allow_bad: bool = False,
) -> dict:
  """Builds the tasks of a config into a folder; returns the report.

  A build that was stopped goes on; one that is done is left as it is.

  Args:
    config: names the tasks.
    out: the folder: local, or gs://...
    options: what is made of their records.
    tasks: names of those that are built; none is all.
    runner: what runs the pipelines.
    allow_bad: go on where more than `data.max_bad_share` of a task is bad.

  Raises:
    ValueError: where a task, the folder, or the runner is not as it should be,
      too many records are bad, or a pipeline fails.
  """
  chosen = options_lib.chosen(config, list(tasks))
  runner_lib.check(runner)
  folder.look(out)
  share = config.data.max_bad_share
  parts = sources.of(
    chosen,
    min_size=options.sizes[0],
    max_missing_share=1.0 if allow_bad else share,
  )
  parameters = {
    'format': _FORMAT,
    **json.loads(json.dumps(dataclasses.asdict(options))),
    'tasks': sources.describe(parts),
  }
  with folder.locked(out):
    report = folder.start(out, parameters)
    if report is None:
      folder.clear(out, [task.name for task in chosen])
      report = _build(out, parts, options, runner, share, allow_bad, parameters)
    else:
      print(f'{out} is already built')
    folder.finish(out)
  for name, one in report['tasks'].items():
    print(report_lib.task_line(name, out, one['heldout']))
  return report


def _build(out, parts, options, runner, share, allow_bad, parameters):
  """Does what is not done yet; returns the report."""
  started = time.monotonic()
  # Beam is imported here: what reads a build's files does without.
  from imagen_jax.prepare import pipelines

  given = {'out': out, 'parts': parts, 'options': options}
  summary = summary_lib.read(out)
  if summary is None:
    total = sum(-(-part.size // part.step) for part in parts)
    with progress.shown(out, folder.FACTS, 'reading', 'ranges', total):
      runner_lib.run(
        runner,
        'read records',
        total,
        functools.partial(pipelines.scan, **given),
      )
    with progress.shown(out, folder.DROPPED, 'comparing', 'ranges', total):
      runner_lib.run(
        runner,
        'compared records',
        total,
        functools.partial(pipelines.deduplicate, **given),
      )
    summary = summary_lib.read(out)
  if not allow_bad:
    report_lib.refuse_bad(parts, summary, share)
  shards = plan_lib.shards(parts, summary, options)
  with progress.shown(out, folder.SHARDS, 'writing', 'shards', len(shards)):
    runner_lib.run(
      runner,
      'wrote shards',
      len(shards),
      functools.partial(pipelines.write, **given, number=len(shards)),
    )
  found = report_lib.of(parts, summary, shards)
  for name, some in plan_lib.by_task(parts).items():
    counts = [summary[str(part.number)] for part in some]
    _beside(out, name, parts, counts, found[name]['license'])
  text = report_lib.text(found)
  files.write(files.join(out, 'report.txt'), text.encode(), folder.FIELD)
  report = {'parameters': parameters, 'tasks': found}
  data = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False)
  # Last: who finds it finds all else.
  files.write(files.join(out, folder.REPORT), data.encode(), folder.FIELD)
  kept = sum(one['kept'] for one in found.values())
  seconds = time.monotonic() - started
  print(f'{out}: {kept:,} records in {len(shards)} shards in {seconds:.1f} s')
  return report


def _beside(out, name, parts, counts, license):
  """Writes what lies beside the shards of a task: index, sheets, license."""
  here = files.join(out, name)
  if license:
    files.write(
      files.join(here, place_lib.LICENSE), license.encode(), folder.FIELD
    )
  for file, sheet in (
    ('kept.png', sheets.kept(out, parts, counts, license)),
    ('copies.png', sheets.copies(out, parts, counts, license)),
  ):
    if sheet is not None:
      data = io.BytesIO()
      sheet.save(data, 'PNG')
      files.write(files.join(here, file), data.getvalue(), folder.FIELD)
  task = config_lib.TaskConfig(name, here, kind='arrayrecord')
  index_lib.build(place_lib.of(task))
