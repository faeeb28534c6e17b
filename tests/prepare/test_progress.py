"""How far a pipeline is, as files tell."""

import io
import sys

from imagen_jax.prepare import folder
from imagen_jax.prepare import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_has_a_bar_of_what_is_done(tmp_path, monkeypatch):
  out = str(tmp_path)
  folder.clear(out, [])
  monkeypatch.setattr(sys, 'stderr', Terminal())
  with progress.shown(out, folder.FACTS, 'reading', 'ranges', 3):
    for name in ('a', 'b', 'c.tmp-1'):
      folder.write(out, folder.FACTS, name, b'')
  assert '2/3' in sys.stderr.getvalue()
  assert 'reading' in sys.stderr.getvalue()


def test_a_log_has_a_line(tmp_path, capsys):
  with progress.shown(str(tmp_path), folder.FACTS, 'reading', 'ranges', 3):
    pass
  assert capsys.readouterr().out == 'reading: 3 ranges\n'
