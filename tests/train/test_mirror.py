"""Files of a run that grow, and their copies in a bucket."""

import json
import time

import pytest
from tensorboard.backend.event_processing import event_accumulator

from imagen_jax import storage
from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train import mirror as mirror_lib


@pytest.fixture
def mirror(bucket):
  mirror = mirror_lib.Mirror(f'gs://{bucket}/run/', '--workdir')
  yield mirror
  mirror.close()


@pytest.fixture
def clock(monkeypatch):
  """The time that a mirror goes by, as a list of one number."""
  now = [100.0]
  monkeypatch.setattr(mirror_lib.time, 'monotonic', lambda: now[0])
  return now


@pytest.fixture
def waited(monkeypatch):
  """The seconds that were waited, which pass at once."""
  seconds = []
  monkeypatch.setattr(mirror_lib.time, 'sleep', seconds.append)
  return seconds


def writer(bucket, start_step=0):
  return metrics_lib.MetricWriter(
    f'gs://{bucket}/run',
    start_step=start_step,
    num_steps=10,
    name='tiny',
    enabled=True,
  )


def lines(storage_server, bucket):
  data = storage_server.buckets[bucket]['run/metrics.jsonl'].data
  return [json.loads(line) for line in data.decode().splitlines()]


def wait(mirror):
  """Lets what was started end, well or not."""
  mirror._running.exception()


def test_what_has_grown_is_copied(mirror, bucket, storage_server):
  inside = mirror.folder / 'x' / 'b'
  inside.parent.mkdir()
  (mirror.folder / 'a').write_text('1')
  inside.write_text('2')
  mirror.finish()
  objects = storage_server.buckets[bucket]
  assert {n: o.data for n, o in objects.items()} == {
    'run/a': b'1',
    'run/x/b': b'2',
  }
  generation = objects['run/a'].generation
  inside.write_text('23')
  mirror.finish()
  assert objects['run/x/b'].data == b'23'
  assert objects['run/a'].generation == generation


def test_what_is_written_anew_in_as_many_bytes_is_copied(
  mirror, bucket, storage_server
):
  for text in ('step 1', 'step 2'):
    (mirror.folder / 'a').write_text(text)
    mirror.finish()
    assert storage_server.buckets[bucket]['run/a'].data.decode() == text
    time.sleep(0.02)  # Longer than a tick of the file system's clock.


def test_it_copies_now_and_then(mirror, bucket, storage_server, clock):
  def write_and_start(text):
    (mirror.folder / 'a').write_text(text)
    assert mirror.start() == ''
    if mirror._running:
      wait(mirror)
    return storage_server.buckets[bucket]['run/a'].data.decode()

  assert write_and_start('1') == '1'
  clock[0] += 59
  assert write_and_start('12') == '1'
  clock[0] += 2
  assert write_and_start('123') == '123'


def test_a_failure_is_told_and_tried_again(
  mirror, bucket, storage_server, clock, waited
):
  (mirror.folder / 'a').write_text('1')
  storage_server.denied.add(('write', bucket))
  assert mirror.start() == ''
  wait(mirror)
  clock[0] += 61
  said = mirror.start()
  assert said.startswith(f'--workdir gs://{bucket}/run/a cannot be written: PE')
  wait(mirror)
  with pytest.raises(ValueError, match='--workdir .*/run/a cannot be written'):
    mirror.finish()
  storage_server.denied.clear()
  mirror.finish()
  assert storage_server.names(bucket) == ['run/a']


def test_nothing_stays_on_this_host(bucket):
  mirror = mirror_lib.Mirror(f'gs://{bucket}/run', '--workdir')
  (mirror.folder / 'a').write_text('1')
  mirror.close()
  assert not mirror.folder.exists()


def test_flushed_metrics_survive_the_process(bucket, storage_server):
  with writer(bucket) as out:
    out.write(2, {'loss': 0.5})
    out.write(4, {'loss': 0.25})
    out.flush()
    assert [line['step'] for line in lines(storage_server, bucket)] == [2, 4]


def test_a_resumed_run_has_each_step_once(
  bucket, storage_server, tmp_path, monkeypatch
):
  """Also where the run before was killed between checkpoints."""
  with writer(bucket) as out:
    for step in (2, 4):
      out.write(step, {'loss': float(step)})
    out.flush()
    out.write(6, {'loss': 6.0})
  assert [line['step'] for line in lines(storage_server, bucket)] == [2, 4, 6]
  with writer(bucket, start_step=4) as out:
    out.write(6, {'loss': 60.0})
    out.image(6, 'samples', b'a png', (20, 10))
  found = lines(storage_server, bucket)
  assert [(line['step'], line['loss']) for line in found] == [
    *((2, 2.0), (4, 4.0), (6, 60.0)),
  ]
  storage_server.download(bucket, 'run/tensorboard', tmp_path)
  events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
  assert sorted(e.step for e in events.Scalars('loss')) == [2, 4, 6]
  assert events.Images('samples')[0].encoded_image_string == b'a png'


def test_a_large_file_of_events_is_left(bucket, storage_server, monkeypatch):
  monkeypatch.setattr(metrics_lib, '_EVENTS_BYTES', 1000)
  with writer(bucket) as out:
    for step in range(1, 6):
      out.image(step, 'samples', bytes(600), (20, 10))
  files = storage_server.names(bucket, 'run/tensorboard/')
  assert len(files) == 5
  for name in files:
    assert len(storage_server.buckets[bucket][name].data) < 1000


def test_what_ended_the_run_is_told_first(
  bucket, storage_server, waited, capfd
):
  with pytest.raises(FloatingPointError, match='loss is nan'):
    with writer(bucket) as out:
      storage_server.denied.add(('write', bucket))
      out.write(2, {'loss': 0.5})
      raise FloatingPointError('loss is nan')
  assert f'--workdir gs://{bucket}/run/' in capfd.readouterr().err


def test_a_short_outage_is_waited_for(
  mirror, bucket, storage_server, waited, monkeypatch
):
  def wait(seconds):
    waited.append(seconds)
    if len(waited) == 3:
      storage_server.denied.clear()

  monkeypatch.setattr(mirror_lib.time, 'sleep', wait)
  (mirror.folder / 'a').write_text('1')
  storage_server.denied.add(('write', bucket))
  mirror.finish()
  assert waited == list(storage.WAITS[:3])
  assert storage_server.names(bucket) == ['run/a']


def test_metrics_that_cannot_be_kept_are_copied_later(
  bucket, storage_server, waited, capfd
):
  """A checkpoint is not given up for them."""
  with writer(bucket) as out:
    storage_server.denied.add(('write', bucket))
    out.write(2, {'loss': 0.5})
    out.flush()
    assert waited == list(storage.WAITS)
    assert 'cannot be written' in capfd.readouterr().err
    storage_server.denied.clear()
  assert [line['step'] for line in lines(storage_server, bucket)] == [2]


def test_a_run_does_not_end_well_without_its_metrics(
  bucket, storage_server, waited
):
  with pytest.raises(ValueError, match='^--workdir .* cannot be written'):
    with writer(bucket) as out:
      storage_server.denied.add(('write', bucket))
      out.write(2, {'loss': 0.5})
  storage_server.denied.clear()
