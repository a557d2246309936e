"""The steps of a recipe, one file each; independent of each other, pure but for running models."""
