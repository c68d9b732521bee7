"""Settings for all tests."""

import os

# No test but the Hub's own, which set this themselves, may ask the network.
os.environ.setdefault("TASK_LOSSES_WEIGHTS", "embedded")
