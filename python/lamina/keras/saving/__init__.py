"""From a captured state to files that are safe."""
