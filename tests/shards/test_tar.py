"""Tar shards: records found as Python's own module would find them."""

import bz2
import gzip
import io
import lzma
import tarfile

import pytest
import shard_files

from imagen_jax.shards import files
from imagen_jax.shards import tar


def scan(path):
  return tar.scan(files.stat(str(path), 'path'))


def records(path):
  """The fields of each record of a shard."""
  found = scan(path)
  data = path.read_bytes()
  spans = zip(found.entries, found.entries[1:])
  return [tar.fields(data[start:stop]) for start, stop in spans]


def write(path, members, **options):
  with tarfile.open(path, 'w', **options) as archive:
    for name, data in members:
      member = tarfile.TarInfo(name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))


LONG = 'folder/' * 40 + 'é' * 30


@pytest.mark.parametrize(
  'form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_members_of_one_name_are_a_record(tmp_path, form):
  key = 'a/b.c/x' if form == tarfile.USTAR_FORMAT else LONG
  members = [
    ('0.jpg', b'0'),
    ('0.txt', b'zero'),
    (f'{key}.JPG', bytes(2000)),
    (f'{key}.seg.txt', b''),
    ('2.jpg', b'2'),
  ]
  write(tmp_path / 'x.tar', members, format=form)
  assert scan(tmp_path / 'x.tar').damage == ''
  assert records(tmp_path / 'x.tar') == [
    {'__key__': b'0', 'jpg': b'0', 'txt': b'zero'},
    {'__key__': key.encode(), 'jpg': bytes(2000), 'seg.txt': b''},
    {'__key__': b'2', 'jpg': b'2'},
  ]


def test_one_name_twice_is_two_records(tmp_path):
  members = [('0.jpg', b'a'), ('0.txt', b'b'), ('0.jpg', b'c')]
  write(tmp_path / 'x.tar', members)
  assert [one['jpg'] for one in records(tmp_path / 'x.tar')] == [b'a', b'c']


def test_what_is_no_file_or_has_no_ending_is_passed_over(tmp_path):
  with tarfile.open(tmp_path / 'x.tar', 'w') as archive:
    for kind, name in [
      (tarfile.DIRTYPE, 'folder.d'),
      (tarfile.SYMTYPE, '0.jpg'),
      (tarfile.LNKTYPE, '0.jpg'),
      (tarfile.FIFOTYPE, '0.jpg'),
      (tarfile.REGTYPE, 'README'),
    ]:
      member = tarfile.TarInfo(name)
      member.type, member.linkname = kind, '/etc/passwd'
      archive.addfile(member)
    member = tarfile.TarInfo('1.txt')
    member.size = 3
    archive.addfile(member, io.BytesIO(b'one'))
  assert records(tmp_path / 'x.tar') == [{'__key__': b'1', 'txt': b'one'}]


def test_a_path_that_climbs_out_is_a_name_like_others(tmp_path):
  name = '../../../etc/x'
  write(tmp_path / 'x.tar', [(f'{name}.txt', b'1'), ('/etc/y.txt', b'2')])
  assert [one['__key__'] for one in records(tmp_path / 'x.tar')] == [
    name.encode(),
    b'/etc/y',
  ]
  assert [path.name for path in tmp_path.iterdir()] == ['x.tar']


def good(tmp_path, count=5):
  path = tmp_path / 'good.tar'
  shard_files.write('webdataset', path, map(shard_files.record, range(count)))
  return path


def test_a_shard_may_be_cut_anywhere(tmp_path):
  """What is in front of the cut is found, and nothing is made up."""
  path = good(tmp_path)
  whole, data = records(path), path.read_bytes()
  starts = scan(path).entries
  cut = tmp_path / 'cut.tar'
  for size in range(0, starts[-1] + 1, 256):
    cut.write_bytes(data[:size])
    found = scan(cut)
    assert 'it is cut at byte' in found.damage
    complete = sum(stop <= size for stop in starts[1:])
    assert complete <= found.records <= complete + 1
    assert records(cut)[:complete] == whole[:complete]
    for one in records(cut)[complete:]:  # What is left of the last.
      assert one.items() <= whole[complete].items()


def test_records_behind_damage_are_found(tmp_path):
  path = good(tmp_path)
  whole, data = records(path), bytearray(path.read_bytes())
  start = scan(path).entries[2]
  data[start : start + 512] = b'\xff' * 512
  path.write_bytes(data)
  found = scan(path)
  assert found.damage == f'it has no header at byte {start}'
  after = records(path)
  assert after[:2] == whole[:2]
  assert after[-2:] == whole[3:]
  assert [one['__key__'] for one in after[2:-2]] == [b'000000002']


def test_bytes_of_anything_are_no_records(tmp_path):
  path = tmp_path / 'x.tar'
  path.write_bytes(bytes(range(256)) * 40)
  assert (scan(path).records, scan(path).damage) == (
    0,
    'it has no header at byte 0',
  )
  with pytest.raises(tar.HeaderError):
    tar.fields(bytes(range(256)) * 4)


def extended(path=b'a'):
  """An extended header, with its contents."""
  text = b'%d path=' % (len(path) + 9) + path + b'\n'
  header = tarfile.TarInfo('x')
  header.type, header.size = tarfile.XHDTYPE, len(text)
  data = header.tobuf(format=tarfile.USTAR_FORMAT)
  return data + text + bytes(-len(text) % tar.BLOCK)


def test_a_chain_of_headers_is_bounded_and_passed_in_one_go(
  tmp_path, monkeypatch
):
  reads = []
  read = files.Stream.read
  monkeypatch.setattr(
    files.Stream, 'read', lambda *args: reads.append(args) or read(*args)
  )
  path = good(tmp_path, 2)
  whole, data = records(path), path.read_bytes()
  for count in (100, 400):
    path.write_bytes(extended() * count + data)
    reads.clear()
    assert scan(path).damage == 'it has a chain of headers at byte 0'
    assert len(reads) < 4 * count + 50
    # What the last of them says is of the first member, as ever.
    assert records(path)[1:] == whole[-1:]
  chain = extended() * (tar._MAX_CHAIN - 1) + extended(b'0.txt')
  path.write_bytes(chain + data)
  assert scan(path).damage == ''
  assert records(path)[0]['__key__'] == b'0'
  path.write_bytes(extended() + chain + data)
  assert 'a chain of headers' in scan(path).damage


def test_an_extended_header_has_a_bounded_size(tmp_path, monkeypatch):
  path = tmp_path / 'x.tar'
  write(path, [(f'{LONG}.txt', b'1')], format=tarfile.PAX_FORMAT)
  assert scan(path).records == 1
  monkeypatch.setattr(tar, '_MAX_EXTENDED', 100)
  assert scan(path).damage == 'it has no header at byte 0'


def test_tars_one_behind_the_other_are_all_read(tmp_path):
  """As `cat` writes them, which is told."""
  path = tmp_path / 'x.tar'
  whole, data = [], b''
  for number in range(3):
    write(path, [(f'{number}.jpg', b'a'), (f'{number}.txt', b'b')])
    whole += records(path)
    data += path.read_bytes()
  path.write_bytes(data)
  assert scan(path).damage == 'it goes on behind its end at byte 2048'
  assert records(path) == whole and len(whole) == 3


def test_zeros_in_the_place_of_a_header_hide_one_record(tmp_path):
  path = good(tmp_path)
  whole, data = records(path), bytearray(path.read_bytes())
  start = scan(path).entries[2]
  data[start : start + 512] = bytes(512)
  path.write_bytes(data)
  assert scan(path).damage == f'it goes on behind its end at byte {start}'
  assert records(path)[:2] + records(path)[-2:] == whole[:2] + whole[3:]


def test_bytes_behind_the_end_are_told_and_zeros_are_not(tmp_path):
  path = good(tmp_path)
  whole, data = records(path), path.read_bytes()
  path.write_bytes(data + bytes(100_000))
  assert scan(path).damage == ''
  path.write_bytes(data + bytes(1000) + b'more')
  assert 'it goes on behind its end' in scan(path).damage
  assert records(path) == whole


@pytest.mark.parametrize(
  'name, pack',
  [('gzip', gzip.compress), ('bzip2', bz2.compress), ('xz', lzma.compress)],
)
def test_a_compressed_tar_is_told(tmp_path, name, pack):
  path = good(tmp_path)
  path.write_bytes(pack(path.read_bytes()))
  found = scan(path)
  assert found.damage == f'it is compressed ({name}), which is not read'
  assert (found.records, list(found.entries)) == (0, [0])
