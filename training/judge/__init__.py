"""Is a loss worth using? ``python -m training.judge RUN_OR_FILE`` (``__main__``) says it; see docs/judge.md.

subject        what is judged, and whether its distortion may be run
photographs    pictures that its critics never saw, as they are and distorted
contest        small networks, trained with the loss and with what it has to beat
verdict        differences with their intervals, and one sentence
"""
