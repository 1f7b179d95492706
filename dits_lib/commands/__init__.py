"""The command lines, one module each: `python -m dits_lib.commands.<name> --help`."""
