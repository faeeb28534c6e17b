"""What a build tells of itself: counts by task and reason, and histograms."""

from collections.abc import Sequence

from imagen_jax.data import tally
from imagen_jax.prepare import facts
from imagen_jax.prepare import parts as parts_lib
from imagen_jax.prepare import plan
from imagen_jax.prepare import sources
from imagen_jax.prepare import summary as summary_lib

_BAR = 40  # Characters of the longest bar.


def of(
  parts: Sequence[parts_lib.Part], summary: dict, shards: Sequence[plan.Shard]
) -> dict:
  """Returns {task: counts} as report.json has it.

  Args:
    parts: what was read.
    summary: of all ranges.
    shards: of all tasks.
  """
  found = {}
  for name, some in plan.by_task(parts).items():
    total, heldout, keys = {}, 0, {}
    for number, part in enumerate(some):
      counts = summary[str(part.number)]
      summary_lib.add(total, {'': counts})
      for reason, first in counts['keys'].items():
        keys.setdefault(reason, []).extend(key for _, key in first)
      if number:
        heldout = counts['kept']
    total = total['']
    copies = {
      'same pixels': total['exact'],
      'looks alike': total['near'],
    }
    found[name] = {
      'read': total['seen'],
      'kept': total['kept'],
      'heldout': heldout,
      'bytes': total['bytes'],
      'shards': sum(shard.task == name for shard in shards),
      'bad': total['bad'],
      'bad_keys': {why: first[: facts.KEYS] for why, first in keys.items()},
      'dropped': total['dropped'],
      'copies': {why: count for why, count in copies.items() if count},
      'shorter_side': _bins(summary_lib.SIDE_EDGES, total['sides']),
      'written_side': dict(
        sorted(total['sizes'].items(), key=lambda item: int(item[0]))
      ),
      'caption_characters': _bins(facts.CAPTION_EDGES, total['captions']),
      'license': sources.records(some[0]).license,
    }
  return found


def refuse_bad(
  parts: Sequence[parts_lib.Part], summary: dict, max_share: float
):
  """Raises ValueError where too many records of a task are bad, with why."""
  for name, some in plan.by_task(parts).items():
    counts = [summary[str(part.number)] for part in some]
    seen = sum(one['seen'] for one in counts)
    reasons = {}
    for one in counts:
      for reason, count in one['bad'].items():
        reasons[reason] = reasons.get(reason, 0) + count
    bad = sum(reasons.values())
    if tally.too_many(bad, seen, max_share):
      listed = ', '.join(f'{why}: {n}' for why, n in sorted(reasons.items()))
      raise ValueError(
        f'task {name!r}: {bad} of {seen} records are bad ({listed}); accepted: '
        f'a share of data.max_bad_share ({max_share}), or --allow-bad, which '
        'goes on from here'
      )


def text(tasks: dict) -> str:
  """Returns the report as report.txt has it; `tasks` is what `of` gave."""
  lines = []
  for name, one in tasks.items():
    kept = f'{one["kept"]:,} of {one["read"]:,} records kept'
    size = f'{one["bytes"]:,} bytes in {one["shards"]} shards'
    lines += [
      f'{name}: {kept} ({_share(one["kept"], one["read"])}), {size}',
      f'  held out: {one["heldout"]:,}',
      *_reasons('bad', one['bad'], one['read'], one['bad_keys']),
      *_reasons('dropped', one['dropped'], one['read'], {}),
      *_reasons('copies', one['copies'], one['read'], {}),
      *_histogram('shorter side as read, pixels', one['shorter_side']),
      *_histogram('shorter side as written, pixels', one['written_side']),
      *_histogram('captions, characters', one['caption_characters']),
    ]
    if one['license']:
      lines.append(f'  license: {one["license"]}')
    lines.append('')
  lines.append('To train on it, with PATH this folder:')
  for name, one in tasks.items():
    lines.append(task_line(name, 'PATH', one['heldout']))
  return '\n'.join(lines) + '\n'


def task_line(name: str, folder: str, heldout: int) -> str:
  """Returns the line of a config that reads a task of a build."""
  held = f', heldout={heldout}' if heldout else ''
  path = f'{folder.rstrip("/")}/{name}'
  return f"  config.TaskConfig({name!r}, {path!r}, kind='arrayrecord'{held}),"


def _bins(edges, counts):
  """Returns {'from-to': count} of a histogram, without empty bins."""
  names = [f'{low}-{high - 1}' for low, high in zip(edges, edges[1:])]
  names.append(f'{edges[-1]}-')
  return {name: count for name, count in zip(names, counts) if count}


def _reasons(title, reasons, read, keys):
  if not reasons:
    return [f'  {title}: none']
  lines = [f'  {title}:']
  for reason, count in sorted(reasons.items()):
    some = ', '.join(keys.get(reason, ()))
    told = f' ({some})' if some else ''
    lines.append(f'    {reason}: {count:,} ({_share(count, read)}){told}')
  return lines


def _histogram(title, bins):
  most = max(bins.values(), default=1)
  width = max(map(len, bins), default=0)
  return [
    f'  {title}:',
    *(
      f'    {name:>{width}} {count:>12,} {"#" * -(-_BAR * count // most)}'
      for name, count in bins.items()
    ),
  ]


def _share(count, total):
  return f'{count / total:.1%}'
