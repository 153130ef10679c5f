"""What the drivers of other frameworks' loops share: stand-in loaders, patches, limits, files of events."""
