"""Streams of other libraries that need a treatment of their own. The libraries are recognized, and not imported."""
