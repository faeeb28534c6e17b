"""What Weights & Biases is handed, by a module in its place and by itself."""

import io
import json
import os
import subprocess
import sys
import threading

from PIL import Image
import pytest

from imagen_jax.train import metrics as metrics_lib
from imagen_jax.train import wandb_log


class Run:
  """A run there, which keeps what it is given."""

  def __init__(self, there, options):
    self.there, self.options = there, options
    self.rows = there.rows.setdefault(options['id'], [])
    self.summary = (
      {} if there.forgets else dict(self.rows[-1:] and self.rows[-1])
    )
    self.axes, self.finished = {}, False

  def define_metric(self, name, step_metric=None, hidden=None):
    self.axes[name] = step_metric

  def log(self, row):
    if self.there.broken:
      raise OSError('no answer')
    self.rows.append(row)

  def finish(self):
    self.finished = True


class Fake:
  """The module `wandb`.

  Attributes:
    rows: what runs have, by id.
    runs: as they were started.
    refuses: modes that cannot be started.
    forgets: whether a run that goes on is told nothing, as offline.
    broken: whether steps are refused.
  """

  Settings = staticmethod(lambda **settings: settings)
  Image = staticmethod(lambda picture: ('picture', picture.size))

  def __init__(self):
    self.rows, self.runs, self.refuses = {}, [], ()
    self.forgets, self.broken = True, False
    self.held = False  # By a run that could not be started.

  def teardown(self):
    self.held = False

  def init(self, **options):
    if self.held:
      raise RuntimeError('the id is in use')
    if options['mode'] in self.refuses:
      self.held = True
      raise RuntimeError('no network\nat all')
    self.runs.append(Run(self, options))
    return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch):
  fake = Fake()
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  return fake


def opened(workdir, start_step=0, enabled=True, project='p', config=None):
  return metrics_lib.MetricWriter(
    str(workdir),
    start_step=start_step,
    num_steps=10,
    name='tiny',
    enabled=enabled,
    wandb=project,
    config=config,
  )


def life(workdir, start_step, steps, said=None, project='p'):
  """A life of a run that writes the metrics of some steps."""
  with opened(workdir, start_step, True, project, {'train': 1}) as out:
    if said is not None:
      out._wandb._say = said.append
    for step in steps:
      out.write(step, {'loss': float(step)})


def steps(wandb, place=0):
  rows = list(wandb.rows.values())[place]
  return [row['step'] for row in rows if 'step' in row]


def test_a_run_is_started_and_ended(wandb, tmp_path):
  life(tmp_path, 0, [2, 4])
  (run,) = wandb.runs
  assert run.finished
  assert run.rows == [{'step': 2, 'loss': 2.0}, {'step': 4, 'loss': 4.0}]
  assert run.axes['*'] == 'step'
  options = run.options
  assert (options['project'], options['resume']) == ('p', 'allow')
  assert (options['dir'], options['name']) == (str(tmp_path), 'tiny')
  assert options['config'] == {'train': 1}


@pytest.mark.parametrize('forgets', [True, False])
def test_a_resumed_run_is_the_same_one_and_no_step_is_sent_twice(
  forgets, wandb, tmp_path
):
  wandb.forgets = forgets
  life(tmp_path, 0, [2, 4, 6])
  life(tmp_path, 4, [6, 8])
  assert len(wandb.rows) == 1 and len(wandb.runs) == 2
  assert steps(wandb) == [2, 4, 6, 8]


def test_what_is_told_there_counts_where_the_file_is_old(wandb, tmp_path):
  life(tmp_path, 0, [2])
  old = (tmp_path / 'wandb.json').read_text()
  life(tmp_path, 2, [4, 6])
  (tmp_path / 'wandb.json').write_text(old)
  wandb.forgets = False
  life(tmp_path, 4, [6, 8])
  assert steps(wandb) == [2, 4, 6, 8]


def test_what_was_written_without_it_is_handed_over(wandb, tmp_path):
  life(tmp_path, 0, [2, 4], project=None)
  life(tmp_path, 4, [6], project='p')
  assert steps(wandb) == [2, 4, 6]


def test_another_project_has_a_run_of_its_own(wandb, tmp_path):
  life(tmp_path, 0, [2])
  life(tmp_path, 2, [4], project='q')
  life(tmp_path, 4, [6])
  assert steps(wandb, 0) == [2, 4, 6]
  assert steps(wandb, 1) == [2, 4]
  kept = json.loads((tmp_path / 'wandb.json').read_text())
  assert {name: each['metrics'] for name, each in kept.items()} == {
    'p': 6,
    'q': 4,
  }


def test_a_step_is_noted_before_it_is_handed_over(wandb, tmp_path):
  """A kill in between leaves it out, rather than have it twice."""
  noted = []
  log = Run.log

  class Watched(Run):
    def log(self, row):
      kept = json.loads((tmp_path / 'wandb.json').read_text())
      noted.append((kept['p']['metrics'], row['step']))
      log(self, row)

  wandb.init = lambda **options: Watched(wandb, options)
  life(tmp_path, 0, [2, 4])
  assert noted == [(2, 2), (4, 4)]


def test_pictures_have_steps_of_their_own(wandb, tmp_path):
  buffer = io.BytesIO()
  Image.new('RGB', (20, 10)).save(buffer, 'PNG')
  for start in (0, 2):
    with opened(tmp_path, start) as out:
      out.write(4, {'loss': 1.0})
      out.image(3, 'samples', buffer.getvalue(), (20, 10))
  (rows,) = wandb.rows.values()
  assert rows == [
    {'step': 4, 'loss': 1.0},
    {'picture_step': 3, 'pictures/samples': ('picture', (20, 10))},
  ]


def test_where_it_cannot_be_reached_files_are_kept(wandb, tmp_path, capsys):
  wandb.refuses = (None,)
  life(tmp_path, 0, [2, 4])
  assert [run.options['mode'] for run in wandb.runs] == ['offline']
  assert steps(wandb) == [2, 4]
  assert (
    'tiny: Weights & Biases: what it is to have is kept for `wandb sync`, as '
    'it cannot be started (no network at all)'
  ) in capsys.readouterr().err


def test_nothing_of_it_stops_a_run(wandb, tmp_path, capsys):
  wandb.refuses = (None, 'offline')
  life(tmp_path, 0, [2, 4])
  assert 'it is not used, as it cannot be started' in capsys.readouterr().err
  wandb.refuses, wandb.broken = (), True
  life(tmp_path, 4, [6, 8])
  told = capsys.readouterr().err
  assert told.count('Weights & Biases: a step was not taken (no answer)') == 1
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [2, 4, 6, 8]


def test_a_service_that_hangs_does_not_hold_up_the_end(
  wandb, tmp_path, monkeypatch, capsys
):
  answer = threading.Event()
  monkeypatch.setattr(wandb_log, '_START', 0.05)
  monkeypatch.setattr(wandb_log, '_END', 0.05)
  monkeypatch.setattr(wandb_log, '_WAITING', 2)
  init = wandb.init
  wandb.init = lambda **options: answer.wait(60) and init(**options)
  life(tmp_path, 0, [2, 4, 6, 8])
  told = capsys.readouterr().err
  assert 'it takes nothing, and what it was to be given is lost' in told
  assert 'it did not take all in time' in told
  answer.set()
  for thread in threading.enumerate():
    if thread.name == 'wandb':
      thread.join(60)
      assert not thread.is_alive()
  assert wandb.runs[-1].finished  # As it took the end after all.


def test_other_hosts_have_nothing_to_do_with_it(wandb, tmp_path):
  with opened(tmp_path, enabled=False) as out:
    out.write(2, {'loss': 1.0})
  assert not wandb.runs
  assert not list(tmp_path.iterdir())


def test_it_is_refused_where_it_is_not_installed(monkeypatch):
  monkeypatch.setattr(wandb_log.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'wandb is not installed; accepted: an'):
    wandb_log.check()


REAL = """
import json, sys
from imagen_jax.train import metrics
workdir, start, *steps = sys.argv[1:]
with metrics.MetricWriter(
  workdir, start_step=int(start), num_steps=10, name='tiny', enabled=True,
  wandb='p', config={'train': {'seed': 0}},
) as out:
  for step in map(int, steps):
    out.write(step, {'loss': 1 / step})
"""
# A file of W&B's is LevelDB's log behind seven bytes: each record has a
# checksum, a length and a kind, which is 1 for those that are in one piece.
RECORDS = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2 as pb
data, place = open(sys.argv[1], 'rb').read(), 7
assert data[:4] == b':W&B' and len(data) < 2**15
while place < len(data):
  _, size, kind = struct.unpack_from('<IHB', data, place)
  assert kind == 1
  record = pb.Record.FromString(data[place + 7 : place + 7 + size])
  place += 7 + size
  if record.WhichOneof('record_type') == 'history':
    row = {
      item.key or '/'.join(item.nested_key): json.loads(item.value_json)
      for item in record.history.item
    }
    print(json.dumps({k: v for k, v in row.items() if k[0] != '_'}))
"""


@pytest.mark.slow
def test_the_real_package_keeps_two_lives_as_one_run(tmp_path):
  """Offline, in processes of their own."""
  pytest.importorskip('wandb')
  env = {**os.environ, 'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true'}

  def python(code, *args):
    argv = [sys.executable, '-c', code, *map(str, args)]
    return subprocess.run(
      argv, env=env, check=True, capture_output=True, text=True
    ).stdout

  workdir = tmp_path / 'run'
  python(REAL, workdir, 0, 2, 4, 6)
  python(REAL, workdir, 4, 6, 8)
  (kept,) = json.loads((workdir / 'wandb.json').read_text()).values()
  files = sorted((workdir / 'wandb').glob('offline-run-*/*.wandb'))
  assert [file.stem for file in files] == [f'run-{kept["id"]}'] * 2
  rows = [
    json.loads(line)
    for file in files
    for line in python(RECORDS, file).splitlines()
  ]
  assert [row['step'] for row in rows] == [2, 4, 6, 8]
  assert rows[0]['loss'] == 0.5
