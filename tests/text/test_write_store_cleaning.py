"""What a killed run leaves beside a store goes with the next one."""

import fake_store
import pytest

from imagen_jax.text import output
from imagen_jax.text import part as part_lib


def kill_amid(remove):
  """Returns `remove`, killed after the first half of what it is given."""

  def removed(*paths):
    remove(*sorted(paths)[: len(paths) // 2])
    raise KeyboardInterrupt

  return removed


def stop_cleaning(monkeypatch, where):
  """A run that is killed in `where` has written the manifest."""
  if where == 'remove_folders':
    monkeypatch.setattr(output, 'remove_folders', fake_store.kill)
  elif where == 'clean':
    monkeypatch.setattr(part_lib, 'clean', fake_store.kill)
  else:
    remove = output.remove
    # One file alone is what `encode` removes.
    amid = kill_amid(remove)
    monkeypatch.setattr(
      output, 'remove', lambda *p: (amid if len(p) > 1 else remove)(*p)
    )


@pytest.mark.parametrize('where', ['remove_folders', 'clean', 'amid clean'])
@pytest.mark.parametrize('bucket', [False, True])
def test_what_a_kill_in_the_cleaning_left_goes_with_the_next_run(
  where, bucket, folder_bucket, tmp_path, monkeypatch
):
  path = 'gs://bucket/s' if bucket else str(tmp_path / 's')
  folder = folder_bucket / 's' if bucket else tmp_path / 's'
  fake_store.write(tmp_path / 'whole', shard_bytes=2000)
  whole = fake_store.contents(tmp_path / 'whole')
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    stop_cleaning(patch, where)
    fake_store.write(path, shard_bytes=2000)
  left = fake_store.contents(folder)
  assert left.keys() > whole.keys()
  assert left['manifest.json'] == whole['manifest.json']
  encoder = fake_store.FakeEncoder()
  fake_store.write(path, encoder=encoder, shard_bytes=2000)
  assert fake_store.contents(folder) == whole
  assert not encoder.shapes


def test_a_run_that_adds_a_part_cleans_those_before(tmp_path, monkeypatch):
  some = fake_store.CAPTIONS[:120]
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(part_lib, 'clean', fake_store.kill)
    fake_store.write(tmp_path / 'cut', some)
  assert list(tmp_path.glob('cut/part-000/*.json'))
  fake_store.write(tmp_path / 'cut')
  for captions in (some, fake_store.CAPTIONS):
    fake_store.write(tmp_path / 'whole', captions)
  assert fake_store.contents(tmp_path / 'cut') == fake_store.contents(
    tmp_path / 'whole'
  )


def test_hosts_leave_when_the_first_has_cleaned_up(tmp_path, monkeypatch):
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(output, 'remove_folders', fake_store.kill)
    fake_store.write(tmp_path)

  def run(host, barrier):
    left = []

    def waited():
      left.append(list(tmp_path.glob('spool-*')))
      barrier()

    fake_store.write(tmp_path, host=host, barrier=waited)
    return left

  first, *others = fake_store.on_hosts(3, run)
  assert first == [[]]
  assert [len(left) for left in others] == [1, 1]
