"""Programs as a TPU's compiler prints them, small enough to add up by hand."""

import pytest

REDUCER = """\
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}
"""


def estimate(cycles):
  """The end of an instruction that has an estimate."""
  return f'backend_config={{"estimated_cycles":"{cycles}","other":["1"]}}'


def program(entry, *others):
  """A scheduled module of the instructions of ENTRY and other computations."""
  lines = '\n'.join(f'  {line}' for line in entry)
  head = 'HloModule jit_train_step, is_scheduled=true\n\nFileNames\n1 "a.py"\n'
  main = f'ENTRY %main (p: f32[8,128]) -> f32[8,128] {{\n{lines}\n}}\n'
  return '\n'.join([head, REDUCER, *others, main])


LOOP = """\
%body (s: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {{
  %s = (s32[]{{:T(128)}}, f32[8,128]{{1,0:T(8,128)S(1)}}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8,128]{{1,0}} get-tuple-element(%s), index=1
  %one = s32[] constant({step})
  %copied = s32[] copy(%i)
  %next = s32[] add(%copied, %one)
  %work = f32[8,128]{{1,0}} negate(%x), {estimate}
{inner}
  ROOT %out = (s32[], f32[8,128]) tuple(%next, %work)
}}

%condition (c: (s32[], f32[8,128])) -> pred[] {{
  %c = (s32[], f32[8,128]) parameter(0)
  %j = s32[] get-tuple-element(%c), index=0
  %limit = s32[] constant({limit})
  ROOT %less = pred[] compare(%j, %limit), direction={direction}
}}
"""


def loop(limit=5, step=1, inner='', direction='LT', cycles=100):
  """A loop's computations: a body that works for so many cycles, a test."""
  return LOOP.format(
    limit=limit,
    step=step,
    inner=inner,
    direction=direction,
    estimate=estimate(cycles),
  )


LOOP_ENTRY = [
  '%p = f32[8,128]{1,0:T(8,128)} parameter(0)',
  '%zero = s32[] constant(0)',
  '%start = s32[] copy(%zero)',
  '%state = (s32[], f32[8,128]) tuple(%start, %p)',
  (
    '%while = (s32[], f32[8,128]) while(%state), condition=%condition, '
    'body=%body'
  ),
  'ROOT %result = f32[8,128] get-tuple-element(%while), index=1',
]


@pytest.fixture
def write():
  """The functions above, which tests cannot import."""

  class Writer:
    program = staticmethod(program)
    estimate = staticmethod(estimate)
    loop = staticmethod(loop)
    loop_entry = LOOP_ENTRY

  return Writer
