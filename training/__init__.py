"""How the embedded weights were made; scripts of the repository, not of the package."""
