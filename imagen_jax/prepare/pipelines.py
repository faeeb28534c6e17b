"""The passes of a build as Apache Beam pipelines.

Nothing but numbers goes from stage to stage, never a picture: what is read is
spooled where it is read, and a shard is put together from runs of spools. So
any runner will do, a bundle may be run twice, and the order in which anything
happens shows nowhere.
"""

from collections.abc import Sequence
import functools
import json
import struct

import apache_beam as beam
import numpy as np

from imagen_jax.prepare import facts as facts_lib
from imagen_jax.prepare import folder
from imagen_jax.prepare import options as options_lib
from imagen_jax.prepare import parts as parts_lib
from imagen_jax.prepare import plan as plan_lib
from imagen_jax.prepare import signature
from imagen_jax.prepare import summary as summary_lib
from imagen_jax.prepare import write as write_lib

Parts = Sequence[parts_lib.Part]

# A record, as it goes from stage to stage, alone and many.
_LOOK = struct.Struct(f'<QQ{signature.TINT}s')
_LOOKS = np.dtype(
  [('rank', '<u8'), ('look', '<u8'), ('tint', 'u1', (signature.TINT,))]
)


def scan(
  pipeline: beam.Pipeline,
  out: str,
  parts: Parts,
  options: options_lib.Options,
):
  """Adds the first pass: every range is scanned that was not before."""
  ranges = _ranges(pipeline, parts) | beam.Reshuffle()
  work = functools.partial(_scan, out, parts, options)
  _ = ranges | 'scan' >> beam.Map(work)


def deduplicate(
  pipeline: beam.Pipeline,
  out: str,
  parts: Parts,
  options: options_lib.Options,
):
  """Adds the second pass: copies are found, and what is left is counted.

  Of pictures of the same pixels the first stays. Of those that are left, one
  that looks like an earlier one goes, whether or not that one stays: so it
  hangs on pairs alone, not on an order in which they were met.
  """
  ranges = _ranges(pipeline, parts) | beam.Reshuffle()
  copies = []
  if options.duplicates != 'keep':
    same = (
      ranges
      | 'facts' >> beam.FlatMap(functools.partial(_facts, out, parts))
      | 'by pixels' >> beam.GroupByKey()
      | 'same pixels' >> beam.ParDo(_Same()).with_outputs('copies', main='left')
    )
    copies.append(same.copies)
    if options.duplicates == 'near':
      copies.append(_near(same.left, options.near_bits))
  left_out = (
    copies
    | beam.Flatten(pipeline=pipeline)
    | 'by range' >> beam.Map(functools.partial(_to_range, parts))
  )
  _ = (
    {
      'ranges': ranges | 'each' >> beam.Map(_keyed),
      'copies': left_out,
    }
    | 'join' >> beam.CoGroupByKey()
    | 'count' >> beam.Map(functools.partial(_count, out, parts))
    | 'add' >> beam.CombineGlobally(_Add())
    | 'summary' >> beam.Map(functools.partial(_keep, out))
  )


def write(
  pipeline: beam.Pipeline,
  out: str,
  parts: Parts,
  options: options_lib.Options,
  number: int,
):
  """Adds the last pass: each of `number` shards that was not is written."""
  shards = pipeline | beam.Create([number]) | beam.FlatMap(_numbers)
  work = functools.partial(_write, out, parts, options)
  _ = shards | beam.Reshuffle() | 'write' >> beam.Map(work)


def _scan(out, parts, options, which):
  some = parts_lib.Range(parts[which[0]], which[1])
  if not folder.is_done(out, folder.FACTS, some.name):
    # Not above: workers of the other passes need no TensorFlow, which takes
    # seconds to import.
    from imagen_jax.prepare import scan as scan_lib

    scan_lib.scan(out, some, options)


def _write(out, parts, options, number):
  shard = _shards(out, parts, options)[number]
  if not folder.is_done(out, folder.SHARDS, shard.name):
    write_lib.write(out, shard)


@functools.lru_cache(maxsize=1)
def _shards(out, parts, options):
  """The plan, made of the summary once a process."""
  return plan_lib.shards(parts, summary_lib.read(out), options)


def _ranges(pipeline, parts):
  """(number of the part, start) of all ranges, told from the parts' sizes."""
  # Not in the graph itself, which runners take up to some megabytes of.
  numbers = pipeline | 'parts' >> beam.Create(range(len(parts)))
  return numbers | 'ranges' >> beam.FlatMap(functools.partial(_starts, parts))


def _starts(parts, number):
  part = parts[number]
  for start in range(0, part.size, part.step):
    yield number, start


def _facts(out, parts, which):
  """Yields (digest of pixels, how it looks) of each usable record."""
  part, start = which
  _, facts = facts_lib.read(out, parts_lib.Range(parts[part], start).name)
  for one in facts:
    rank = parts_lib.rank(part, int(one['index']))
    look = _LOOK.pack(rank, int(one['look']), one['tint'].tobytes())
    yield one['exact'].tobytes(), look


class _Same(beam.DoFn):
  """Of pictures of the same pixels: the first one, and the others as copies."""

  def process(self, element):
    _, looks = element
    first = min(looks, key=_rank)
    yield first
    partner = _rank(first)
    for look in looks:
      if _rank(look) != partner:
        copy = (_rank(look), (summary_lib.EXACT, partner))
        yield beam.pvalue.TaggedOutput('copies', copy)


def _rank(look):
  return _LOOK.unpack(look)[0]


def _near(looks, distance):
  """(rank, (NEAR, partner)) of the records that look like an earlier one."""
  return (
    looks
    | 'spread' >> beam.FlatMap(functools.partial(_spread, distance))
    | 'by look' >> beam.GroupByKey()
    | 'pairs' >> beam.FlatMap(functools.partial(_pairs, distance))
    # A pair may share several buckets.
    | 'first' >> beam.CombinePerKey(min)
    | 'near' >> beam.Map(lambda pair: (pair[0], (summary_lib.NEAR, pair[1])))
  )


def _spread(distance, look):
  bits = _LOOK.unpack(look)[1]
  return ((key, look) for key in signature.buckets(bits, distance))


def _pairs(distance, element):
  """Yields (rank, partner) of a bucket."""
  looks = np.frombuffer(b''.join(element[1]), _LOOKS)
  looks = looks[np.argsort(looks['rank'])]
  found = signature.partners(
    looks['rank'], looks['look'], looks['tint'], distance
  )
  yield from found.items()


def _to_range(parts, copy):
  """Returns ((part, start) of its range, (index, kind, partner)) of a copy."""
  rank, (kind, partner) = copy
  some, index = parts_lib.located(parts, rank)
  return (some.part.number, some.start), (index, kind, partner)


def _count(out, parts, element):
  """Returns the summary of a range, as JSON."""
  (part, start), found = element
  some = parts_lib.Range(parts[part], start)
  return json.dumps(summary_lib.of_range(out, some, found['copies']))


def _numbers(number):
  yield from range(number)


def _keyed(which):
  return which, True


def _keep(out, text):
  summary_lib.write(out, json.loads(text))


class _Add(beam.CombineFn):
  """The sum of summaries, as JSON."""

  def create_accumulator(self):
    return {}

  def add_input(self, total, text):
    return summary_lib.add(total, json.loads(text))

  def merge_accumulators(self, totals):
    return functools.reduce(summary_lib.add, totals, {})

  def extract_output(self, total):
    return json.dumps(total)
