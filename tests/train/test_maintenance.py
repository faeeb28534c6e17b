"""Notices of the platform, by a fake metadata server."""

import http.server
import os
import signal
import socket
import threading
import time

import pytest

from imagen_jax.train import maintenance


@pytest.fixture
def server(monkeypatch):
  """What a metadata server answers, by path; absent ones are not found."""
  answers = {'maintenance-event': 'NONE', 'preempted': 'FALSE'}

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      assert self.headers['Metadata-Flavor'] == 'Google'
      answer = answers.get(
        self.path.removeprefix('/computeMetadata/v1/instance/')
      )
      self.send_response(404 if answer is None else 200)
      self.end_headers()
      self.wfile.write((answer or '').encode())

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(('localhost', 0), Handler) as found:
    thread = threading.Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv('GCE_METADATA_HOST', f'localhost:{found.server_port}')
    yield answers
    found.shutdown()
    thread.join()


@pytest.fixture
def signals():
  """The SIGTERMs that this process was sent."""
  seen = []
  old = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
  yield seen
  signal.signal(signal.SIGTERM, old)


def until(condition, seconds=10):
  deadline = time.monotonic() + seconds
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.01)
  return condition()


@pytest.mark.parametrize(
  'name, word',
  [
    ('maintenance-event', 'TERMINATE_ON_HOST_MAINTENANCE'),
    ('preempted', 'TRUE'),
  ],
)
def test_a_notice_is_sigterm_once(name, word, server, signals, capfd):
  with maintenance.Notices(0.01):
    time.sleep(0.1)
    assert not signals
    server[name] = word
    assert until(lambda: signals)
    time.sleep(0.1)
  assert len(signals) == 1
  assert f'notice of the platform: {name} is {word}' in capfd.readouterr().err


def test_one_that_stands_when_a_run_goes_on_is_not_heeded(
  server, signals, capfd
):
  server['preempted'] = 'TRUE'
  del server['maintenance-event']  # Which need not be there.
  with maintenance.Notices(0.01):
    time.sleep(0.1)
    assert not signals
    server['maintenance-event'] = 'MIGRATE_ON_HOST_MAINTENANCE'
    time.sleep(0.1)
    assert not signals
    server['preempted'] = 'FALSE'
    time.sleep(0.1)
    server['preempted'] = 'TRUE'
    assert until(lambda: signals)
  said = 'notice of the platform: preempted is TRUE already, and is not heeded'
  assert said in capfd.readouterr().err


@pytest.mark.parametrize(
  'nonsense', [b'nonsense\r\n\r\n', b'HTTP/1.1 200 OK\r\n\r\n\xff']
)
def test_an_answer_that_is_none_is_asked_for_again(
  nonsense, server, signals, monkeypatch
):
  """As of a proxy, or of a server that breaks off."""
  with maintenance.Notices(0.01):
    with socket.create_server(('localhost', 0)) as other:
      other.settimeout(10)
      address = os.environ['GCE_METADATA_HOST']
      port = other.getsockname()[1]
      monkeypatch.setenv('GCE_METADATA_HOST', f'localhost:{port}')
      for _ in range(2):
        client, _ = other.accept()
        with client:
          client.recv(10_000)
          client.sendall(nonsense)
      monkeypatch.setenv('GCE_METADATA_HOST', address)
    server['preempted'] = 'TRUE'
    assert until(lambda: signals)


def test_where_there_is_no_server_it_is_refused(monkeypatch):
  monkeypatch.setenv('GCE_METADATA_HOST', 'localhost:1')
  with pytest.raises(ValueError, match='--maintenance: localhost:1 does not'):
    with maintenance.Notices():
      pass
  assert os.environ['GCE_METADATA_HOST'] == 'localhost:1'
