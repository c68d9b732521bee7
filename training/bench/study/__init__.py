"""The quality benchmark: restoration networks are fine-tuned with each loss, and measured.

    quality    runs the missing cells of a study (task, loss, regime, seed); each leaves one result file
    quick      functions that measure one weight file, for the metric of a sweep
    times      time of each loss, on patches as in its trainings

A new loss to compare with is a line of ``peers.SIMPLE``, or a case of ``peers.find_peer`` if it needs a file; its name
goes into the docstring there, which ``--help`` shows. A new metric is a line of ``metrics.METRICS``. A new restoration
network goes into ``restorers``, a new degradation or test level into ``data``. Cells that are there are not made again.
"""
