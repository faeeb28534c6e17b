"""The store of embeddings: written, added to, interrupted, by many hosts."""

import hashlib
import json

import fake_store
import numpy as np
import pytest

from imagen_jax.text import manifest as manifest_lib
from imagen_jax.text import output
from imagen_jax.text import store as store_lib
from imagen_jax.text import write_store


def test_the_manifest_counts(tmp_path):
  manifest = fake_store.write(tmp_path, shard_bytes=2000)
  assert manifest['identity'] == fake_store.IDENTITY
  assert manifest['num_captions'] == 200
  assert manifest['num_tokens'] == sum(
    min(len(c), 8) for c in fake_store.CAPTIONS
  )
  assert manifest['num_cut'] == sum(len(c) > 8 for c in fake_store.CAPTIONS) > 0
  assert manifest['parts'][0]['mentions'] == 200
  assert manifest['parts'][0]['rows'] == 16
  assert json.loads((tmp_path / 'manifest.json').read_text()) == manifest


def test_the_manifest_has_every_files_hash(tmp_path):
  manifest = fake_store.write(tmp_path, shard_bytes=2000)
  hashes = {
    f'part-000/{name}': value
    for shard in manifest['parts'][0]['shards']
    for name, value in shard['sha256'].items()
  }
  found = fake_store.contents(tmp_path)
  del found['manifest.json']
  assert hashes == {
    name: hashlib.sha256(value).hexdigest() for name, value in found.items()
  }


def test_more_captions_make_a_new_part(tmp_path):
  fake_store.write(tmp_path, fake_store.CAPTIONS[:120], shard_bytes=2000)
  before = fake_store.contents(tmp_path)
  encoder = fake_store.FakeEncoder()
  manifest = fake_store.write(tmp_path, encoder=encoder)
  assert encoder.rows == 80

  assert len(manifest['parts']) == 2
  assert manifest['num_captions'] == 200
  after = fake_store.contents(tmp_path)
  assert {name: after[name] for name in before if name != 'manifest.json'} == {
    name: value for name, value in before.items() if name != 'manifest.json'
  }
  store = store_lib.EmbeddingStore(tmp_path)
  embed, mask = store.lookup(fake_store.CAPTIONS, 8)
  for caption, tokens, real in zip(
    fake_store.CAPTIONS, embed, mask, strict=True
  ):
    np.testing.assert_array_equal(tokens[real], fake_store.embed_of(caption))


def test_what_is_known_is_not_encoded_again(tmp_path):
  fake_store.write(tmp_path)
  before = fake_store.contents(tmp_path)
  encoder = fake_store.FakeEncoder()
  fake_store.write(tmp_path, encoder=encoder)
  assert fake_store.contents(tmp_path) == before
  # Another list with nothing new makes no part.
  manifest = fake_store.write(tmp_path, fake_store.CAPTIONS[:7], encoder)
  assert (len(manifest['sources']), len(manifest['parts'])) == (2, 1)
  assert not encoder.shapes


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path):
  whole = fake_store.FakeEncoder()
  fake_store.write(tmp_path / 'whole', encoder=whole, shard_bytes=2000)
  for batches in (3, 4):
    with pytest.raises(KeyboardInterrupt):
      encoder = fake_store.FakeEncoder(fail_after=batches)
      fake_store.write(tmp_path / 'cut', encoder=encoder, shard_bytes=2000)
    with pytest.raises(ValueError, match='not finished; run imagen-jax encode'):
      store_lib.EmbeddingStore(tmp_path / 'cut')
  rest = fake_store.FakeEncoder()
  fake_store.write(tmp_path / 'cut', encoder=rest, shard_bytes=2000)
  assert fake_store.contents(tmp_path / 'cut') == fake_store.contents(
    tmp_path / 'whole'
  )
  assert rest.rows < whole.rows


@pytest.mark.parametrize('shard_bytes', [2000, 4000])
def test_a_stale_shard_is_not_taken(shard_bytes, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    fake_store.write(
      tmp_path, encoder=fake_store.FakeEncoder(fail_after=5), shard_bytes=2000
    )
  assert list(tmp_path.glob('part-000/*.json'))
  changed = fake_store.IDENTITY | {'checkpoint': 'other'}
  encoder = fake_store.FakeEncoder()
  # Under the names of those of before, and in fewer and larger shards.
  manifest = fake_store.write(
    tmp_path, encoder=encoder, identity=changed, shard_bytes=shard_bytes
  )
  assert encoder.rows == 200
  found = fake_store.contents(tmp_path)
  assert len(found) == 1 + 2 * len(manifest['parts'][0]['shards'])


def test_three_hosts_write_what_one_does(tmp_path):
  options = {'shard_bytes': 2000, 'run_records': 30}
  fake_store.write(tmp_path / 'one', **options)
  encoders = [fake_store.FakeEncoder() for _ in range(3)]

  def run(host, barrier):
    return fake_store.write(
      tmp_path / 'three',
      encoder=encoders[host[0]],
      host=host,
      barrier=barrier,
      **options,
    )

  first, *others = fake_store.on_hosts(3, run)
  assert all(other == first for other in others)
  assert fake_store.contents(tmp_path / 'three') == fake_store.contents(
    tmp_path / 'one'
  )
  assert sum(encoder.rows for encoder in encoders) == 200
  assert min(encoder.rows for encoder in encoders) > 30


def test_batches_have_few_shapes_and_little_padding(tmp_path):
  encoder = fake_store.FakeEncoder()
  seen = None

  def report(progress):
    nonlocal seen
    seen = progress

  fake_store.write(tmp_path, encoder=encoder, rows=8, report=report)
  assert len(set(encoder.shapes)) <= 4
  assert (seen.stage, seen.done, seen.encoded, seen.total) == (
    'encode',
    200,
    200,
    200,
  )
  assert seen.computed == sum(rows * length for rows, length in encoder.shapes)
  assert seen.tokens == sum(min(len(c), 8) for c in fake_store.CAPTIONS)
  assert seen.tokens / seen.computed > 0.8


def test_another_identity_is_refused(tmp_path):
  fake_store.write(tmp_path)
  other = fake_store.IDENTITY | {'encoder': 'else', 'max_length': 9}
  pattern = (
    "encoder is 'fake' in the store, 'else' in the config; max_length is 8 "
    'in the store, 9 in the config; accepted'
  )
  with pytest.raises(ValueError, match=pattern):
    fake_store.write(tmp_path, identity=other)


def test_an_unknown_address_is_refused():
  with pytest.raises(ValueError, match="--out is 'ftp://b/s'; accepted: a loc"):
    fake_store.write('ftp://b/s')
  with pytest.raises(ValueError, match="'ftp://b/s'; accepted: a local path,"):
    store_lib.EmbeddingStore('ftp://b/s')


def test_a_bucket_gets_the_same_bytes(folder_bucket, tmp_path):
  """By three hosts, after one was stopped, and then with a part more."""
  options = {'shard_bytes': 2000, 'run_records': 30}
  address = 'gs://bucket/s'
  some = fake_store.CAPTIONS[:150]
  with pytest.raises(KeyboardInterrupt):
    fake_store.write(
      address, some, fake_store.FakeEncoder(fail_after=9), **options
    )
  assert list(folder_bucket.glob('s/part-000/*.json'))
  encoders = [fake_store.FakeEncoder() for _ in range(3)]

  def run(host, barrier):
    encoder = encoders[host[0]]
    return fake_store.write(
      address, some, encoder, host=host, barrier=barrier, **options
    )

  fake_store.on_hosts(3, run)
  assert 0 < sum(encoder.rows for encoder in encoders) < 150
  fake_store.write(address, fake_store.CAPTIONS, **options)
  for captions in (some, fake_store.CAPTIONS):
    fake_store.write(tmp_path / 'folder', captions, **options)
  assert fake_store.contents(folder_bucket / 's') == fake_store.contents(
    tmp_path / 'folder'
  )


def test_where_one_may_not_write_is_told_before_computing(folder_bucket):
  (folder_bucket / 'file').write_text('')
  encoder = fake_store.FakeEncoder()
  words = r'--out gs://bucket/file/spool-\w+/host-000000.json cannot be writte'
  with pytest.raises(ValueError, match=words) as caught:
    fake_store.write('gs://bucket/file', encoder=encoder)
  assert '\n' not in str(caught.value)
  assert not encoder.shapes


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
  class Broken(fake_store.FakeEncoder):
    def encode_tokens(self, tokens, mask):
      return super().encode_tokens(tokens, mask) * np.nan

  with pytest.raises(ValueError, match='is not finite; accepted: finite ones'):
    fake_store.write(tmp_path, encoder=Broken())


@pytest.mark.parametrize('captions', [[], ['', ' ']])
def test_nothing_to_write_is_refused(tmp_path, captions):
  with pytest.raises(ValueError, match='have no captions; accepted: at least'):
    fake_store.write(tmp_path, captions)


def test_shards_of_other_rows_are_not_taken(tmp_path):
  """What another `text.rows` computed may differ in its last bits."""
  with pytest.raises(KeyboardInterrupt):
    fake_store.write(
      tmp_path,
      encoder=fake_store.FakeEncoder(fail_after=5),
      shard_bytes=2000,
    )
  assert list(tmp_path.glob('part-000/*.json'))
  encoder = fake_store.FakeEncoder()
  manifest = fake_store.write(
    tmp_path, encoder=encoder, shard_bytes=2000, rows=8
  )
  assert encoder.rows == 200
  assert manifest['parts'][0]['rows'] == 8


def test_who_is_waited_for_is_said_once_a_minute(tmp_path, monkeypatch, caplog):
  now = 0.0

  def sleep(seconds):
    nonlocal now
    now += seconds
    if now > 200:
      raise KeyboardInterrupt

  monkeypatch.setattr(write_store.time, 'monotonic', lambda: now)
  monkeypatch.setattr(write_store.time, 'sleep', sleep)

  def said(host):
    nonlocal now
    now = 0.0
    caplog.clear()
    with pytest.raises(KeyboardInterrupt):
      fake_store.write(
        tmp_path, run_records=30, shard_bytes=2000, host=(host, 2)
      )
    return [record.getMessage() for record in caplog.records]

  assert said(1) == 3 * [
    f'{tmp_path}: waiting for 4 of 7 runs of the scan, the first of host 0 of 2'
  ]
  # Host 1 has died, after its share of the scan.
  assert said(0) == 3 * [
    f'{tmp_path}: waiting for the shards of 1 of 2 hosts, the first of host 1'
  ]


class Doubled(fake_store.FakeEncoder):
  """Another checkpoint."""

  def encode_tokens(self, tokens, mask):
    return 2 * super().encode_tokens(tokens, mask)


def test_a_shard_that_another_plan_wrote_over_is_written_again(
  tmp_path, monkeypatch
):
  fake_store.write(tmp_path / 'whole', shard_bytes=2000)
  cut = tmp_path / 'cut'
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    # All shards have notes.
    patch.setattr(manifest_lib, 'extended', fake_store.kill)
    fake_store.write(cut, shard_bytes=2000)
  (record,) = cut.glob('part-000/shard-000000*.array_record')
  before = record.read_bytes()

  def no_note(path, value):
    if '/part-000/' in path:
      raise KeyboardInterrupt
    write_json(path, value)

  write_json = output.write_json
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(output, 'write_json', no_note)
    fake_store.write(
      cut,
      encoder=Doubled(),
      identity=fake_store.IDENTITY | {'checkpoint': 'other'},
      shard_bytes=2000,
    )
  assert record.read_bytes() != before
  fake_store.write(cut, shard_bytes=2000)
  assert fake_store.contents(cut) == fake_store.contents(tmp_path / 'whole')


def test_a_host_that_encodes_again_is_not_said_to_be_done(
  tmp_path, monkeypatch
):
  """The others would come to a barrier long before it does."""
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(manifest_lib, 'extended', fake_store.kill)
    fake_store.write(tmp_path, shard_bytes=2000)
  assert list(tmp_path.glob('spool-*/done-*'))
  next(tmp_path.glob('part-000/*.json')).unlink()  # As another plan does.
  with pytest.raises(KeyboardInterrupt):
    fake_store.write(
      tmp_path, encoder=fake_store.FakeEncoder(fail_after=0), shard_bytes=2000
    )
  assert not list(tmp_path.glob('spool-*/done-*'))
