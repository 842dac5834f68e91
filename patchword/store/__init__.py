"""An index folder as it lies on disk: manifest, catalog and shards, and what a reader sees of them at one instant."""
