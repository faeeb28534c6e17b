"""The diffusion maths: functions of arrays, without parameters."""
