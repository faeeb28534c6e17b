"""A build from config to training, and what becomes of one that is stopped."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

pytest.importorskip(
  'apache_beam',
  reason='Apache Beam is not installed (launch/install.sh --beam)',
)

from imagen_jax import config as config_lib
from imagen_jax.cli import main
from imagen_jax.data import loader
from imagen_jax.data import records as records_lib
from imagen_jax.data import tasks as tasks_lib
from imagen_jax.prepare import build
from imagen_jax.prepare import options as options_lib
from imagen_jax.prepare import scan
from imagen_jax.prepare import write

SIZES = (16, 32)
OPTIONS = options_lib.Options(SIZES, form='png', num_shards=3, keep=('width',))


def files(out):
  """{name: digest} of all that a build wrote but times of files."""
  found = {}
  for path in sorted(pathlib.Path(out).rglob('*')):
    if path.is_file():
      data = path.read_bytes()
      if path.name == 'index.json':
        table = json.loads(data)
        for shard in table['shards']:
          shard[2] = 'time of change'
        data = json.dumps(table).encode()
      name = str(path.relative_to(out))
      found[name] = hashlib.sha256(data).hexdigest()
  return found


def built_tasks(out, names=('tars', 'rows', 'files'), **fields):
  """Configs of the tasks of a build, as its report tells to write them."""
  lines = (pathlib.Path(out) / 'report.txt').read_text().partition('PATH this')
  found = []
  for line in lines[2].splitlines()[1:]:
    namespace = {'config': config_lib}
    (task,) = eval(f'({line.strip()})', namespace)
    path = task.path.replace('PATH', str(out))
    if task.name in names:
      found.append(dataclasses.replace(task, path=path, **fields))
  return tuple(found)


def every(task, split='train'):
  """All records of a split of a task."""
  records = records_lib.Records(task, records_lib.open_dataset(task), split)
  fields = ('similarity', 'width')
  return [records.read(n, fields=fields) for n in range(len(records))]


@pytest.fixture(scope='module')
def source(sources):
  return config_lib.load(str(sources))


@pytest.fixture(scope='module')
def built(source, tmp_path_factory):
  """Folder of a build, and its report."""
  out = tmp_path_factory.mktemp('built') / 'out'
  return out, build.build(source, str(out), OPTIONS, allow_bad=True)


def test_what_is_bad_small_or_filtered_is_counted(built):
  _, report = built
  tars, rows, files = (report['tasks'][n] for n in ('tars', 'rows', 'files'))
  assert (tars['read'], tars['kept']) == (130, 130 - 10 - 3 - 3 - 6)
  assert tars['bad'] == {'undecodable picture': 3}
  assert tars['bad_keys'] == {
    'undecodable picture': ['000000047', '000000087', '000000127']
  }
  assert tars['dropped'] == {
    'similarity under 0.1': 10,
    'shorter side under 16 pixels': 3,
  }
  # 45 is of the pixels of 44, and 46 looks like it; and so on.
  assert tars['copies'] == {'same pixels': 3, 'looks alike': 3}
  assert tars['heldout'] == 2 and tars['shards'] == 3
  assert rows['dropped']['NSFW is another'] == 30
  assert rows['read'] == 60 and files['read'] == 8
  # Three pictures that the tars have, but there a filter drops them.
  assert files['kept'] == 8 and files['copies'] == {}
  for one in (tars, rows, files):
    lost = sum(sum(one[why].values()) for why in ('bad', 'dropped', 'copies'))
    assert one['kept'] + lost == one['read']
    for name in ('shorter_side', 'written_side', 'caption_characters'):
      assert sum(one[name].values()) == one['kept'], name


def test_what_comes_twice_stays_where_it_comes_first(built):
  """Tars hold 120 to 129 as rows do."""
  out, _ = built
  keys = {t.name: [r.key for r in every(t)] for t in built_tasks(out)}
  assert '000000121' in keys['tars'] and '000000121' not in keys['rows']
  assert '000000131' in keys['rows']


def test_records_keep_their_order_captions_and_metadata(built):
  out, _ = built
  tars, *_ = built_tasks(out)
  found = [*every(tars), *every(tars, 'heldout')]
  keys = [int(one.key) for one in found]
  left = {5, 6, 7, 8}
  assert keys == [n for n in range(10, 130) if n % 40 not in left]
  for one in found:
    assert one.captions == (f'picture {int(one.key)}',)
    assert one.metadata['similarity'] == [
      pytest.approx(int(one.key) / 100, abs=1e-6)
    ]
    assert one.metadata['width'] == [8]
  heldout = [int(one.key) for one in every(tars, 'heldout')]
  assert heldout == [124, 129]


def test_filters_find_what_they_found_before(built):
  out, _ = built
  (rows,) = built_tasks(
    out,
    ['rows'],
    filters=(config_lib.FilterConfig('NSFW', accepted=('UNLIKELY',)),),
  )
  assert len(every(rows)) == 24


def test_pictures_are_those_of_the_source_made_smaller(built, prepared):
  out, _ = built
  tars, *_ = built_tasks(out)
  for one in every(tars):
    number = int(one.key)
    small = 20 if number % 40 == 9 else 40
    image = one.picture.image
    assert min(image.size) == (16 if small == 20 else 32)
    own = prepared.landscape(number, small)
    wanted = own.resize(image.size, Image.Resampling.BOX)
    apart = np.abs(np.asarray(image, int) - np.asarray(wanted))
    assert apart.mean() < 20  # Another picture is 60 apart.


def test_shards_are_balanced(built):
  out, _ = built
  for task in built_tasks(out):
    table = json.loads(
      next(out.glob(f'{task.name}/*.index/*.json')).read_text()
    )
    counts = [shard[3] for shard in table['shards']]
    assert len(counts) == 3 and max(counts) - min(counts) <= 1


def test_training_reads_a_build_without_another_command(built, source):
  out, _ = built
  data = dataclasses.replace(source.data, tasks=built_tasks(out))
  config = dataclasses.replace(source, data=data)
  with loader.training_batches(config, rows=range(4), store=None) as batches:
    batch = next(batches)
  assert batch['image'].shape == (4, 16, 16, 3)
  assert tasks_lib.num_examples(config)['tars']['heldout'] == 2


def test_sheets_show_what_stays_and_what_does_not(built):
  out, _ = built
  for name in ('tars/kept.png', 'tars/copies.png', 'rows/kept.png'):
    assert np.asarray(Image.open(out / name)).std() > 5
  assert not (out / 'files/copies.png').exists()
  assert not (out / '.build').exists()


def test_the_report_can_be_read(built):
  out, _ = built
  text = (out / 'report.txt').read_text()
  assert 'tars: 108 of 130 records kept (83.1%)' in text
  assert '    looks alike: 3 (2.3%)\n' in text
  assert re.search(r'shorter side as read.*\n +16-31|32-63 +\d+ #+', text)
  assert '(000000047, 000000087, 000000127)' in text


def test_a_build_that_is_done_is_left_as_it_is(built, source, capsys):
  out, report = built
  before = files(out), {p: p.stat().st_mtime_ns for p in out.rglob('*')}
  assert build.build(source, str(out), OPTIONS, allow_bad=True) == report
  assert 'is already built' in capsys.readouterr().out
  after = {p: p.stat().st_mtime_ns for p in before[1]}
  assert (files(out), after) == before


def test_other_options_are_refused(built, source):
  out, _ = built
  other = dataclasses.replace(OPTIONS, sizes=(16,))
  with pytest.raises(
    ValueError, match=r'sizes \[16, 32\] there, \[16\] asked for'
  ):
    build.build(source, str(out), other, allow_bad=True)


@pytest.mark.parametrize(
  'duplicates, left', [('exact', (111, 24)), ('keep', (114, 28))]
)
def test_copies_stay_where_they_are_asked_for(
  source, tmp_path, duplicates, left
):
  options = dataclasses.replace(OPTIONS, duplicates=duplicates)
  report = build.build(
    source,
    str(tmp_path / 'out'),
    options,
    tasks=['tars', 'rows'],
    allow_bad=True,
  )
  tasks = report['tasks']
  assert set(tasks) == {'tars', 'rows'}
  assert (tasks['tars']['kept'], tasks['rows']['kept']) == left


def test_too_many_bad_records_stop_a_build_and_may_be_allowed(
  source, built, tmp_path
):
  few = dataclasses.replace(source.data, max_bad_share=0.0)
  few = dataclasses.replace(source, data=few)
  out = str(tmp_path / 'out')
  with pytest.raises(
    ValueError,
    match=r"task 'tars': 3 of 130 records are bad \(undecodable picture: 3\); "
    r'accepted: .*max_bad_share \(0.0\), or --allow-bad',
  ):
    build.build(few, out, OPTIONS)
  assert not list(pathlib.Path(out).glob('*/*.array_record'))
  build.build(few, out, OPTIONS, allow_bad=True)
  assert files(out) == files(built[0])


@pytest.mark.parametrize('where', ['scan', 'write'])
def test_a_build_that_failed_goes_on(
  source, built, tmp_path, monkeypatch, where
):
  """Twice stopped; nothing that was done is done again."""
  out = str(tmp_path / 'out')
  module = {'scan': scan, 'write': write}[where]
  function, calls = getattr(module, where), []

  def stops(*args):
    if len(calls) in (2, 4):
      calls.append(None)
      raise OSError('no more room')
    calls.append(repr(args))
    function(*args)

  monkeypatch.setattr(module, where, stops)
  for _ in range(2):
    with pytest.raises(
      ValueError,
      match='stopped while it .*: .*no more room.*; what it has done stays',
    ):
      build.build(source, out, OPTIONS, allow_bad=True)
  build.build(source, out, OPTIONS, allow_bad=True)
  done = [call for call in calls if call]
  assert len(set(done)) == len(done) == {'scan': 5, 'write': 9}[where]
  assert files(out) == files(built[0])


def test_a_license_goes_with_the_pictures(tmp_path):
  from imagen_jax.synthetic import build as synthetic

  synthetic.build(
    'openmoji',
    tmp_path / 'drawn',
    num_examples=4,
    size=32,
    num_objects=4,
    progress=False,
  )
  task = config_lib.TaskConfig('drawn', str(tmp_path / 'drawn'))
  config = config_lib.Config(data=config_lib.DataConfig(tasks=(task,)))
  out = tmp_path / 'out'
  build.build(config, str(out), options_lib.Options((32,), duplicates='keep'))
  (read,) = built_tasks(out, ['drawn'])
  asked = records_lib.Records(task, records_lib.open_dataset(task), 'train')
  got = records_lib.Records(read, records_lib.open_dataset(read), 'heldout')
  assert got.license == asked.license and 'OpenMoji' in got.license


def test_the_commands_of_the_page_work(repo, sources, tmp_path, capsys):
  page = (repo / 'docs/data.md').read_text().replace('\\\n', ' ')
  lines = re.findall(r'^    (imagen-jax data build .*--config.*)$', page, re.M)
  here = [line for line in lines if '--runner' not in line]
  assert len(here) >= 2 and len(lines) > len(here)
  for number, line in enumerate(here):
    arguments = [
      {'C': str(sources), 'DIR': str(tmp_path / f'out{number}')}.get(word, word)
      for word in shlex.split(line.removeprefix('imagen-jax '))
    ]
    extra = ['--task', 'files', '--workers', '1', '--allow-bad']
    if '--sizes' in arguments:
      # The pictures of a test are no larger.
      place = arguments.index('--sizes') + 1
      arguments[place] = '16,32'
    assert main.main([*arguments, *extra]) == 0
    assert "kind='arrayrecord'" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_make_the_same_and_one_may_be_killed(sources, built, tmp_path):
  """Two processes; one is killed; the command fails at once, and goes on."""
  out = tmp_path / 'out'
  arguments = [
    *(sys.executable, '-m', 'imagen_jax', 'data', 'build'),
    *('--config', sources, '--out', out, '--sizes', '16,32'),
    *('--format', 'png', '--num-shards', 3, '--keep', 'width'),
    *('--workers', 2, '--allow-bad'),
  ]
  start = lambda: subprocess.Popen(
    list(map(str, arguments)), stderr=subprocess.PIPE, text=True
  )
  first = start()
  killed = _kill_a_worker(first)
  said = first.communicate(timeout=120)[1]
  assert first.returncode == 2, said
  last = said.strip().splitlines()[-1]
  assert re.match('imagen-jax: the build stopped .* a worker died', last), said
  assert not _descendants(killed), 'a process was left'
  second = start()
  said = second.communicate(timeout=300)[1]
  assert second.returncode == 0, said
  assert files(out) == files(built[0])


def _processes():
  """(id, id of the parent, id of the session, command) of all processes."""
  lines = subprocess.run(
    ['ps', '-wweo', 'pid=,ppid=,sess=,args='], capture_output=True, text=True
  ).stdout.splitlines()
  for line in lines:
    pid, parent, session, arguments = line.split(None, 3)
    yield int(pid), int(parent), int(session), arguments


def _descendants(session):
  # One that has ended stays in the list until its parent, here init, looks.
  return [
    one
    for one in _processes()
    if one[2] == session and not one[3].endswith('<defunct>')
  ]


def _kill_a_worker(process):
  """Kills a worker of a build that has begun; returns its session."""
  for _ in range(1200):
    assert process.poll() is None, process.stderr.read()
    sessions = {
      session
      for pid, parent, session, _ in _processes()
      if parent == process.pid and session == pid
    }
    for pid, _, session, arguments in _processes():
      python = arguments.split()[0].endswith(('python', 'python3'))
      if session in sessions and 'sdk_worker_main' in arguments and python:
        os.kill(pid, signal.SIGKILL)
        return session
    time.sleep(0.1)
  raise AssertionError('no worker was started')
