"""Reading data: records on disk to host-local batches of numpy arrays.

The only package that imports TensorFlow.
"""

import importlib
import os
import re
import sys
import tempfile

# What TensorFlow writes straight to file descriptor 2 while it starts, which
# its log level does not yet govern.
_NOTICE = re.compile(
  rb'[IWE]0000 |WARNING: All log messages before absl|'
  rb'To enable the following instructions'
)


def _start_quietly(*names):
  """Imports modules, TensorFlow first, without its greetings; shows all else.

  One of them, that CUDA could not be started, comes with its first look at the
  devices of a machine that has none.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as written:
    os.dup2(written.fileno(), 2)
    try:
      for name in names:
        importlib.import_module(name)
      # Reading needs no accelerator, and TensorFlow would claim its memory.
      sys.modules['tensorflow'].config.set_visible_devices([], 'GPU')
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
      written.seek(0)
      for line in written:
        if not _NOTICE.match(line):
          os.write(2, line)


_start_quietly('tensorflow', 'tensorflow_datasets', 'seqio')
