"""What ships inside the package: the `shapes` data set's renderer and the `tiny` backbone's weights."""
