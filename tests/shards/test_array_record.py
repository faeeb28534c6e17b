"""What ArrayRecord's footers say, in every form that it writes them."""

from array_record.python import array_record_module
import numpy as np
import pytest

from imagen_jax.shards import array_record
from imagen_jax.shards import files
from imagen_jax.shards import footers


def write(path, records, options='group_size:1'):
  writer = array_record_module.ArrayRecordWriter(str(path), options)
  for one in records:
    writer.write(one)
  writer.close()
  return files.stat(str(path), 'path')


@pytest.mark.parametrize(
  'packed', ['uncompressed', 'brotli', 'zstd', 'snappy', 'transpose:true']
)
@pytest.mark.parametrize('group', [1, 4])
def test_sizes_of_chunks_are_those_of_the_records(tmp_path, packed, group):
  rng = np.random.default_rng(0)
  records = [rng.bytes(int(n)) for n in rng.integers(0, 50_000, 10)]
  file = write(tmp_path / 'x', records, f'group_size:{group},{packed}')
  numbers, sizes = array_record.chunks(file)
  groups = [records[n : n + group] for n in range(0, 10, group)]
  assert list(numbers) == [len(some) for some in groups]
  assert list(sizes) == [sum(map(len, some)) for some in groups]


def test_a_footer_may_span_blocks(tmp_path):
  records = [b'x' * (n % 7) for n in range(20_000)]
  file = write(tmp_path / 'x', records, 'group_size:1,uncompressed')
  numbers, sizes = array_record.chunks(file)
  assert list(sizes) == [len(one) for one in records]
  assert set(numbers) == {1}


def test_damaged_footers_have_one_error(tmp_path):
  path = tmp_path / 'x'
  good = write(path, [b'abc' * n for n in range(300)])
  data = path.read_bytes()
  rng = np.random.default_rng(0)
  last = good.size - 2**16
  (footer, *_) = array_record._fields(array_record._chunk(good, last)[0])
  seen = set()
  for _ in range(300):
    broken = bytearray(data)
    for start in rng.choice([footer, last], 2):
      broken[start + int(rng.integers(120))] = rng.integers(256)
    path.write_bytes(broken)
    try:
      array_record.chunks(files.stat(str(path), 'path'))
      seen.add('read')
    except array_record.FooterError:
      seen.add('refused')
  assert seen == {'read', 'refused'}
  for size in (0, 100, 2**16, 2**16 + 100, good.size - 1):
    path.write_bytes(data[:size])
    with pytest.raises(array_record.FooterError):
      array_record.chunks(files.stat(str(path), 'path'))


def test_a_footer_that_is_too_large_is_not_read(tmp_path, monkeypatch):
  file = write(tmp_path / 'x', [b'a'] * 100)
  monkeypatch.setattr(array_record, '_MAX_FOOTER', 500)
  with pytest.raises(array_record.FooterError, match='footer is too large'):
    array_record.chunks(file)
  found = footers.scan_array_record(file)
  assert 'its footer is too large' in found.damage and found.records == 0
