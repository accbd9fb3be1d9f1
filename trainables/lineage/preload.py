"""What a worker imports before it is asked for: Ray is given this module's name."""

import gc

# Imports make many objects and little garbage, and to look for it takes a tenth of their time.
gc.disable()
try:
    import trainables.lineage.trainable as trainable
finally:
    gc.freeze()
    gc.enable()

__all__ = ["trainable"]
