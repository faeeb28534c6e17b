"""Reading data: records on disk to host-local batches of numpy arrays.

The only package that imports TensorFlow.
"""

import importlib
import os
import re
import sys
import tempfile

# What TensorFlow writes straight to file descriptor 2 while it is imported,
# which its log level does not yet govern.
_NOTICE = re.compile(
  rb'[IWE]0000 |WARNING: All log messages before absl|'
  rb'To enable the following instructions'
)


def _import_quietly(*names):
  """Imports modules without TensorFlow's greetings; shows all else."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as written:
    os.dup2(written.fileno(), 2)
    try:
      for name in names:
        importlib.import_module(name)
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
      written.seek(0)
      for line in written:
        if not _NOTICE.match(line):
          os.write(2, line)


_import_quietly('tensorflow', 'tensorflow_datasets', 'seqio')

# Reading needs no accelerator, and TensorFlow would claim all of its memory.
sys.modules['tensorflow'].config.set_visible_devices([], 'GPU')
