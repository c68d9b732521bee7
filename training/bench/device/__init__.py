"""One command for a few minutes on a GPU: everything that only a device can tell, into at most eight small files.

    training.bench.device         runs all stages
    training.bench.device.part    one part of a stage: what the former starts

A stage is a module here and a file of results; it has one or more parts, each a process of its own with a time limit.
To add one: a module with ``PARTS``, and its parts in :data:`.stages.PARTS`, the most valuable first. What runs
the parts (:mod:`.runner`) needs Python alone, so that a broken torch is a result like any other.
"""
