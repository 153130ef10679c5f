"""What the process imports from which all others are forked: what every contestant needs, once. It starts no thread."""

from contextlib import suppress

import tests.bench.contestants
import tests.bench.limits  # noqa: F401

with suppress(ImportError):  # who needs it says so
    import pytorch_lightning.plugins.io  # noqa: F401
