"""State: live objects in, documents and file images out, and back; knows no paths and no storage."""
