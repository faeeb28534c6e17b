"""launch/pod.sh: what a rehearsal prints, and what a real run calls.

A stand-in for gcloud writes down its arguments, one line a call, so that
quoting is seen as a program sees it.
"""

import json
import os
import shlex
import subprocess

import pytest

SETTINGS = {
  'POD_NAME': 'pod',
  'PROJECT': 'project',
  'ZONE': 'zone-a',
  'ACCELERATOR_TYPE': 'v5p-256',
  'RUNTIME_VERSION': 'v2-alpha-tpuv5',
  'BUCKET': 'bucket',
}
WHERE = ['--project=project', '--zone=zone-a']
SSH = ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'pod', *WHERE]
HOST = 'bash imagen_jax/launch/host.sh'
GCLOUD = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ['CALLS'], 'a') as calls:
  print(json.dumps(['gcloud', *sys.argv[1:]]), file=calls)
sys.exit(int(os.environ.get('GCLOUD_STATUS', 0)))
"""


@pytest.fixture
def pod(repo, tmp_path):
  """Runs pod.sh; returns its status, stdout with stderr, and gcloud's calls."""
  fake = tmp_path / 'bin' / 'gcloud'
  fake.parent.mkdir()
  fake.write_text(GCLOUD)
  fake.chmod(0o755)
  calls = tmp_path / 'calls'

  def run(*words, **settings):
    calls.write_text('')
    settings = {**SETTINGS, 'POD_ENV': str(tmp_path / 'none'), **settings}
    done = subprocess.run(
      ['bash', repo / 'launch/pod.sh', *words],
      env={
        'PATH': f'{fake.parent}:{os.environ["PATH"]}',
        'HOME': str(tmp_path),
        'CALLS': str(calls),
        **{name: value for name, value in settings.items() if value},
      },
      cwd=tmp_path,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      timeout=120,
    )
    made = [json.loads(line) for line in calls.read_text().splitlines()]
    return done.returncode, done.stdout, made

  return run


def printed(output):
  """The commands that a rehearsal prints, as a shell would split them."""
  return [
    shlex.split(line[1:])
    for line in output.splitlines()
    if line.startswith('+')
  ]


@pytest.mark.parametrize(
  'words, settings, expected',
  [
    (
      ['create'],
      {},
      [
        [
          *['gcloud', 'storage', 'buckets', 'describe', 'gs://bucket'],
          *['--project=project', '--format=value(location)'],
        ],
        [
          *['gcloud', 'compute', 'tpus', 'queued-resources', 'create', 'pod'],
          *['--node-id=pod', *WHERE, '--accelerator-type=v5p-256'],
          *['--runtime-version=v2-alpha-tpuv5', '--async'],
        ],
      ],
    ),
    (
      ['create'],
      {
        'QUEUED': 'no',
        'SPOT': 'yes',
        'INTERNAL_IP': 'yes',
        'NETWORK': 'net',
        'SUBNETWORK': 'sub',
      },
      [
        [
          *['gcloud', 'storage', 'buckets', 'describe', 'gs://bucket'],
          *['--project=project', '--format=value(location)'],
        ],
        [
          *['gcloud', 'compute', 'tpus', 'tpu-vm', 'create', 'pod', *WHERE],
          *['--accelerator-type=v5p-256', '--spot', '--network=net'],
          *['--subnetwork=sub', '--internal-ips', '--version=v2-alpha-tpuv5'],
        ],
      ],
    ),
    (
      ['status'],
      {},
      [
        [
          *['gcloud', 'compute', 'tpus', 'queued-resources', 'describe'],
          *['pod', *WHERE, '--format=value(state.state)'],
        ],
        [*SSH, '--worker=all', f'--command={HOST} status'],
      ],
    ),
    (
      ['status'],
      {'QUEUED': 'no', 'INTERNAL_IP': 'yes'},
      [
        [
          *['gcloud', 'compute', 'tpus', 'tpu-vm', 'describe', 'pod', *WHERE],
          '--format=value(state)',
        ],
        [
          *[*SSH, '--internal-ip', '--worker=all'],
          f'--command={HOST} status',
        ],
      ],
    ),
    (['logs'], {}, [[*SSH, '--worker=0', f'--command={HOST} follow']]),
    (['logs', '12'], {}, [[*SSH, '--worker=12', f'--command={HOST} follow']]),
    (['stop'], {}, [[*SSH, '--worker=all', f'--command={HOST} stop']]),
    (['ssh', '3'], {}, [[*SSH, '--worker=3']]),
    (
      ['fetch', 'gs://bucket/a b', 'there'],
      {},
      [
        ['mkdir', '-p', 'there'],
        [
          *['gcloud', 'storage', 'cp', '--recursive'],
          *['gs://bucket/a b', 'there'],
        ],
      ],
    ),
    (
      ['fetch', '~/x', 'there'],
      {},
      [
        ['mkdir', '-p', 'there'],
        [
          *['gcloud', 'compute', 'tpus', 'tpu-vm', 'scp', 'pod:~/x', 'there'],
          *[*WHERE, '--worker=0', '--recurse'],
        ],
      ],
    ),
    (
      ['delete'],
      {},
      [
        [
          *['gcloud', 'compute', 'tpus', 'queued-resources', 'delete', 'pod'],
          *[*WHERE, '--force'],
        ]
      ],
    ),
    (
      ['delete'],
      {'QUEUED': 'no'},
      [['gcloud', 'compute', 'tpus', 'tpu-vm', 'delete', 'pod', *WHERE]],
    ),
  ],
)
def test_rehearsal_prints_what_a_real_run_calls(
  pod, words, settings, expected, tmp_path
):
  status, output, calls = pod('--dry-run', *words, **settings)
  assert status == 0, output
  assert printed(output) == expected
  assert calls == []
  assert not (tmp_path / 'there').exists()

  status, output, calls = pod(*words, **settings)
  assert status == 0, output
  assert printed(output) == expected
  assert calls == [each for each in expected if each[0] == 'gcloud']


def test_settings_are_printed(pod):
  _, output, _ = pod('--dry-run', 'stop')
  for name, value in SETTINGS.items():
    assert f'{name}={value}\n' in output


def test_run_on_one_host(pod):
  _, _, (call,) = pod('run', '--host', '0', 'imagen-jax', 'export')
  assert call[:-1] == [*SSH, '--worker=0']
  assert call[-1].endswith('start imagen-jax export')

  words = ['--restart', '7', '--host', '1', 'imagen-jax', 'train']
  _, _, (call,) = pod('run', *words)
  assert call[:-1] == [*SSH, '--worker=1']
  assert call[-1].endswith('start --restart 7 imagen-jax train')

  status, output, calls = pod('run', '--host', 'first', 'imagen-jax')
  assert status != 0
  assert "host is 'first'; accepted: 0, 1" in output
  assert calls == []


def test_run_keeps_every_argument_as_it_was(pod):
  argument = 'a cat\'s "hat" $HOME `x` \\ *;&\nand a line'
  words = ['imagen-jax', 'sample', '--prompt', argument, '', 'é']
  _, _, (call,) = pod('run', *words, BUCKET='my bucket')
  assert call[:-1] == [*SSH, '--worker=all']
  line = call[-1].removeprefix('--command=')
  # The host's shell takes it apart again; here, one that prints.
  done = subprocess.run(
    ['bash', '-c', f'show() {{ printf "%s\\0" "$@"; }}; show {line}'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split('\0')[:-1] == [
    *['env', 'BUCKET=my bucket', *HOST.split(), 'start', *words]
  ]


def test_push_takes_what_is_committed(pod, repo):
  status, output, calls = pod('--dry-run', 'push')
  assert status == 0, output
  idle, archive, copy, setup = printed(output)
  assert idle[-1].endswith(f'{HOST} idle')
  path = archive[-2].removeprefix('--output=')
  assert archive == [
    *['git', '-C', str(repo), 'archive', '--format=tar.gz'],
    *[f'--output={path}', 'HEAD'],
  ]
  assert copy == [
    *['gcloud', 'compute', 'tpus', 'tpu-vm', 'scp', path],
    *['pod:imagen_jax.tar.gz', *WHERE, '--worker=all'],
  ]
  assert setup[:-1] == [*SSH, '--worker=all']
  assert setup[-1].endswith(f'{HOST} setup')
  assert calls == []
  assert not os.path.exists(os.path.dirname(path))


def test_unpacking_keeps_the_installation_and_drops_the_rest(pod, tmp_path):
  _, output, _ = pod('--dry-run', 'push')
  unpack = printed(output)[-1][-1].removeprefix('--command=')
  home = tmp_path / 'home'
  tree = home / 'imagen_jax'
  for path in ('.venv/bin/python', 'old/file'):
    (tree / path).parent.mkdir(parents=True)
    (tree / path).touch()
  new = tmp_path / 'new/launch/host.sh'
  new.parent.mkdir(parents=True)
  new.write_text('echo "did $1"')
  archive = home / 'imagen_jax.tar.gz'
  subprocess.run(
    ['tar', '-czf', archive, '-C', tmp_path / 'new', 'launch'], check=True
  )
  done = subprocess.run(
    ['bash', '-c', unpack], cwd=home, capture_output=True, text=True, check=True
  )
  assert done.stdout == 'did setup\n'
  assert (tree / '.venv/bin/python').exists()
  assert not (tree / 'old').exists()


def test_a_failure_ends_it_and_is_passed_on(pod):
  status, _, calls = pod('create', GCLOUD_STATUS='5')
  assert status == 5
  assert len(calls) == 1


def test_settings_file_is_read_and_the_environment_comes_first(pod, tmp_path):
  (tmp_path / 'pod.env').write_text(
    '# A comment.\n\nPOD_NAME=from-file\nZONE=zone-of-file\n'
    'QUEUED=no\nBUCKET=$(touch not-run)'
  )
  _, output, _ = pod(
    '--dry-run', 'delete', POD_ENV=str(tmp_path / 'pod.env'), POD_NAME=''
  )
  (command,) = printed(output)
  assert command[4:6] == ['delete', 'from-file']
  assert '--zone=zone-a' in command
  assert not (tmp_path / 'not-run').exists()


def test_the_example_of_settings_is_complete(pod, repo):
  path = repo / 'launch/pod.env.example'
  nothing = dict.fromkeys(SETTINGS, '')
  status, output, _ = pod('--dry-run', 'stop', POD_ENV=str(path), **nothing)
  assert status == 0, output


@pytest.mark.parametrize('name', SETTINGS)
def test_each_setting_must_be_set(pod, name):
  status, output, calls = pod('create', **{name: ''})
  assert status == 2
  assert output.startswith(f'pod.sh: {name} is not set; set it in ')
  assert calls == []


@pytest.mark.parametrize(
  'words, settings, refusal',
  [
    (['start'], {}, "no command 'start'; accepted: create, push, run"),
    (['run'], {}, 'run needs a command, such as: imagen-jax train'),
    (['run', '--restart', 'x', 'y'], {}, "--restart is 'x'; accepted: 0, 1"),
    (['logs', 'all'], {}, "host is 'all'; accepted: 0, 1, ..."),
    (['ssh', '-1'], {}, "host is '-1'"),
    (['fetch', 'x'], {}, 'fetch needs SRC'),
    (['stop'], {'SPOT': 'true'}, "SPOT is 'true'; accepted: yes, no"),
    (['stop'], {'QUEUED': '1'}, "QUEUED is '1'; accepted: yes, no"),
  ],
)
def test_refuses(pod, words, settings, refusal):
  status, output, calls = pod(*words, **settings)
  assert status == 2
  assert f'pod.sh: {refusal}' in output
  assert calls == []


def test_refuses_an_unknown_setting(pod, tmp_path):
  (tmp_path / 'pod.env').write_text('POD_NAM=x\n')
  status, output, _ = pod('stop', POD_ENV=str(tmp_path / 'pod.env'))
  assert status == 2
  assert 'sets POD_NAM; accepted: POD_NAME PROJECT' in output


@pytest.mark.parametrize('words', [[], ['--help']])
def test_help_tells_how_to_train_the_base_stage(pod, words):
  status, output, _ = pod(*words, **dict.fromkeys(SETTINGS, ''))
  assert status == 0
  for word in ('create', 'push', 'status', 'logs', 'stop', 'fetch', 'delete'):
    assert f'\n  {word} ' in output
  assert 'run imagen-jax train --config configs/base64.py' in output
  assert 'run --host 0 imagen-jax export' in output
  assert '\nset -' not in output
