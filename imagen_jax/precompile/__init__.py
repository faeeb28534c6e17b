"""The training step compiled for a TPU that is not here, and its modelled time.

`topology` names chips and pods, `compile` has the TPU compiler make a config's
step for one, `hlo` reads what it made, `model` makes a time of it, `report`
prints that. No figure was compared with hardware: all are modelled.
"""
