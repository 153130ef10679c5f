"""The JSON documents of the format, of this version and of earlier ones."""
