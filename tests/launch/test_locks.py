"""The locks: complete, pinned by hash, and of no machine in particular."""

import configparser
import re

from packaging import requirements
from packaging import utils
import pytest

LOCKS = ('main', 'build', 'encoder', 'tpu', 'beam')
PYTHONS = ('3.11.0', '3.12.0', '3.13.0')


def environment(python, machine):
  return {
    'python_version': python.rsplit('.', 1)[0],
    'python_full_version': python,
    'implementation_name': 'cpython',
    'platform_python_implementation': 'CPython',
    'sys_platform': 'linux',
    'platform_system': 'Linux',
    'platform_machine': machine,
    'os_name': 'posix',
    'extra': '',
  }


def read(repo, lock):
  """A lock's requirements, each with its hashes."""
  text = (repo / f'requirements/{lock}.lock').read_text()
  text = re.sub(r'^#.*\n', '', text, flags=re.M).replace('\\\n', ' ')
  for line in text.splitlines():
    words, *hashes = line.split('--hash=')
    yield requirements.Requirement(words), [each.strip() for each in hashes]


def declared(repo):
  """What setup.cfg asks for, by extra; '' is what everybody gets."""
  settings = configparser.ConfigParser()
  settings.read(repo / 'setup.cfg')
  lists = {'': settings['options']['install_requires']}
  lists |= dict(settings['options.extras_require'])
  return {
    extra: [
      requirements.Requirement(line) for line in text.strip().splitlines()
    ]
    for extra, text in lists.items()
  }


def pins(repo, lock, env):
  """{package: version} of a lock on such a machine."""
  locked = {}
  for requirement, _ in read(repo, lock):
    if requirement.marker is None or requirement.marker.evaluate(env):
      name = utils.canonicalize_name(requirement.name)
      assert name not in locked, f'{name} is locked twice on {env}'
      (pin,) = requirement.specifier
      locked[name] = pin.version
  return locked


@pytest.mark.parametrize('lock', LOCKS)
def test_every_package_is_pinned_with_a_hash(repo, lock):
  found = list(read(repo, lock))
  assert found
  for requirement, hashes in found:
    assert re.fullmatch(r'==[^,*]+', str(requirement.specifier)), requirement
    assert requirement.url is None
    assert hashes, requirement
    for each in hashes:
      assert re.fullmatch(r'sha256:[0-9a-f]{64}', each), requirement


@pytest.mark.parametrize('lock', LOCKS)
def test_no_lock_names_an_index_or_a_path(repo, lock):
  text = (repo / f'requirements/{lock}.lock').read_text()
  assert '://' not in text
  assert not re.search(r'^-', text, flags=re.M)
  assert not re.search(r'\s/\w', text)


@pytest.mark.parametrize('machine', ['x86_64', 'aarch64'])
@pytest.mark.parametrize('python', PYTHONS)
def test_the_lock_has_what_setup_cfg_asks_for(repo, python, machine):
  env = environment(python, machine)
  locked = pins(repo, 'main', env)
  wanted = declared(repo)
  # T5X cannot be locked with the rest: it wants packages of its own time. What
  # s3 and bench add no test takes, and those of wandb are left out without it.
  assert set(wanted) == {
    *('', 's3', 'beam', 'tpu', 'quickstart', 'test', 't5x', 'bench', 'wandb'),
  }
  for requirement in wanted[''] + wanted['quickstart'] + wanted['test']:
    if requirement.marker is None or requirement.marker.evaluate(env):
      name = utils.canonicalize_name(requirement.name)
      assert requirement.specifier.contains(locked[name]), requirement
  # One TensorFlow: two would overwrite each other's files.
  assert len({'tensorflow', 'tensorflow-cpu'} & set(locked)) == 1


@pytest.mark.parametrize('python', PYTHONS)
def test_what_beam_asks_for_lies_over_the_lock(repo, python):
  env = environment(python, 'x86_64')
  main, beam = pins(repo, 'main', env), pins(repo, 'beam', env)
  both = {**main, **beam}
  wanted = declared(repo)
  for requirement in wanted['beam'] + wanted[''] + wanted['test']:
    if requirement.marker is None or requirement.marker.evaluate(env):
      name = utils.canonicalize_name(requirement.name)
      assert requirement.specifier.contains(both[name]), requirement
  # Once all of it fits main.lock, an environment of its own is for nothing.
  assert any(
    main.get(name, version) != version for name, version in beam.items()
  )


def test_declared_ranges_are_floors_and_no_more(repo):
  """A ceiling is a guess; what fails is found by the lock's next remake."""
  for extra, found in declared(repo).items():
    for requirement in found:
      if requirement.url is not None:
        assert re.search(r'@[0-9a-f]{40}$', requirement.url), requirement
        continue
      operators = {each.operator for each in requirement.specifier}
      assert operators in ({'>='}, {'=='}), (extra, requirement)
