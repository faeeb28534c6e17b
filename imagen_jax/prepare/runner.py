"""What runs a pipeline: Beam, as far as a build has to do with it.

Only what is here and `pipelines` import Beam, and only once it is needed.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import importlib.util
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import signal
import threading

LOCAL = 'DirectRunner'

# What Beam lacks that nobody asked for, and how a worker starts and ends.
_NOTICE = re.compile(
  rb'WARNING:root:apitools not found|(INFO|WARNING):__main__:'
)


@dataclasses.dataclass(frozen=True)
class Runner:
  """Which of Beam's runners runs a build, and how.

  Attributes:
    name: as Beam knows it.
    workers: processes of the local runner; of others, their options tell.
    flags: options for Beam, as '--name=value'.
  """

  name: str = LOCAL
  workers: int = 1
  flags: tuple[str, ...] = ()


def check(runner: Runner):
  """Raises ValueError where Beam is missing, or does not know the runner."""
  if importlib.util.find_spec('apache_beam') is None:
    raise ValueError(
      "Apache Beam is not installed; `pip install 'imagen-jax[beam]'`, or "
      '`bash launch/install.sh --beam` for an environment of its own'
    )
  logging.disable(logging.WARNING)  # What it lacks that nobody asked for.
  try:
    _opened(runner)
  finally:
    logging.disable(logging.NOTSET)


def run(
  runner: Runner, doing: str, pieces: int, fill: Callable[..., None]
) -> None:
  """Runs a pipeline to its end.

  Args:
    runner: what runs it.
    doing: what it does, for errors.
    pieces: of work, that there are; more processes are not started.
    fill: adds the transforms to the pipeline that it is given; can be pickled.

  Raises:
    ValueError: where it fails, with the last line of why.
  """
  runner = dataclasses.replace(runner, workers=min(runner.workers, pieces))
  if runner.name == LOCAL and runner.workers > 1:
    reason = _run_apart(runner, fill)
    if reason:
      raise _stopped(doing, reason)
    return
  try:
    _run_here(runner, fill)
  except Exception as error:  # Each runner raises errors of its own.
    raise _stopped(doing, _reason(error)) from error


def _run_here(runner, fill):
  import apache_beam as beam

  where, options = _opened(runner)
  pipeline = beam.Pipeline(runner=where, options=options)
  fill(pipeline)
  result = pipeline.run()
  state = result.wait_until_finish() or result.state
  if state != beam.runners.runner.PipelineState.DONE:
    raise RuntimeError(f'{runner.name} ended as {state}')


def _run_apart(runner, fill):
  """Runs a pipeline of several processes; returns why it failed, or ''.

  In a process of its own, with a session of its own: where a worker dies,
  Beam's local runner waits for it for ever, and so do all its threads. All of
  them are ended together, whichever way this process goes on or ends.
  """
  context = multiprocessing.get_context('spawn')
  ours, theirs = context.Pipe(duplex=False)
  process = context.Process(
    target=_alone, args=(runner, pickle.dumps(fill), theirs)
  )
  process.start()
  theirs.close()
  try:
    return ours.recv()
  except EOFError:
    process.join()
    return f'its process ended with status {process.exitcode}'
  finally:
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _alone(runner, fill, told):
  """Runs a pipeline, and tells how it went: '' or why it failed."""
  os.setsid()
  _say_only_what_matters()
  threading.Thread(target=_end_with_parent, daemon=True).start()
  before = threading.excepthook

  def heard(args):
    # That a worker has ended is an error in the thread that started it.
    if 'subprocess exited' in str(args.exc_value):
      told.send(f'a worker died ({args.exc_value})')
    elif not args.exc_type.__module__.startswith('grpc'):
      before(args)  # Those are of connections to it.

  threading.excepthook = heard
  try:
    # Not before: it takes Beam, which has things to say.
    _run_here(runner, pickle.loads(fill))
  except Exception as error:  # Each runner raises errors of its own.
    told.send(_reason(error))
  else:
    told.send('')


def _say_only_what_matters():
  """Leaves out what Beam tells of itself, here and in workers; keeps the rest.

  Of a failure it tells pages, of which the reason is a line. What workers log
  they write here themselves, even while they do not yet know of any level.
  """
  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
  ends = os.pipe()
  stderr = os.dup(2)
  os.dup2(ends[1], 2)

  def hand_on():
    with open(ends[0], 'rb') as lines:
      for line in lines:
        if not _NOTICE.match(line):
          os.write(stderr, line)

  threading.Thread(target=hand_on, daemon=True).start()


def _end_with_parent():
  """Ends this session once the process that started it is gone."""
  multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
  os.killpg(0, signal.SIGKILL)


def _stopped(doing, reason):
  return ValueError(
    f'the build stopped while it {doing}: {reason}; what it has done stays, '
    'and the same command goes on from there'
  )


def _reason(error):
  """Returns the last line that says something of why a pipeline failed."""
  lines = [line.strip() for line in str(error).splitlines()]
  said = [line for line in lines if line and not line.startswith(('[', '^'))]
  return said[-1] if said else type(error).__name__


def _opened(runner):
  """Returns Beam's runner, and its options.

  Raises:
    ValueError: where Beam takes them not.
  """
  from apache_beam.options import pipeline_options
  from apache_beam.runners import runner as runner_lib

  flags = list(runner.flags)
  if runner.name == LOCAL:
    several = runner.workers > 1
    mode = 'multi_processing' if several else 'in_memory'
    flags = [
      f'--direct_num_workers={runner.workers}',
      f'--direct_running_mode={mode}',
      '--default_sdk_harness_log_level=WARNING',
      '--sdk_harness_log_level_overrides={"apache_beam": "CRITICAL"}',
      *flags,
    ]
  try:
    options = pipeline_options.PipelineOptions(flags)
    options.get_all_options()
  except SystemExit as error:  # Of argparse, which has said why.
    raise ValueError(
      f'--beam-option is {list(runner.flags)}; accepted: NAME=VALUE of '
      "Beam's pipeline options"
    ) from error
  if runner.name == LOCAL:
    return _local(options), options
  try:
    return runner_lib.create_runner(runner.name), options
  except (ValueError, ImportError, AttributeError) as error:
    known = pipeline_options.StandardOptions.KNOWN_RUNNER_NAMES
    reason = str(error).splitlines()[0]
    raise ValueError(
      f'--runner is {runner.name!r}; accepted: one that Beam has here, of '
      f'{", ".join(known)} ({reason})'
    ) from error


def _local(options):
  """Returns the runner behind Beam's DirectRunner.

  By that name Beam first looks for a program of another language, which it
  would fetch from the network.
  """
  from apache_beam.portability.api import beam_provision_api_pb2
  from apache_beam.runners.portability import portable_runner
  from apache_beam.runners.portability.fn_api_runner import fn_runner

  told = portable_runner.JobServiceHandle.encode_pipeline_options(
    options.get_all_options()
  )
  provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=told)
  return fn_runner.FnApiRunner(
    provision_info=fn_runner.ExtendedProvisionInfo(provision)
  )
