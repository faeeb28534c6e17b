"""Text-image data made on the spot, and checkers that read it back.

Two little worlds, `shapes` and `openmoji`. Each has a grammar whose captions
say exactly what a picture shows, a renderer, and a checker that measures from
the pixels alone whether a picture is right.
"""
