# shop/__init__.py: makes the folder a package
