"""The one exception a user is meant to see."""


class UserError(Exception):
    """Bad input, told in one line: what is wrong, where (flag or file), and what was expected.

    Commands print it to stderr and exit with status 2 (`cmg.cli.command`), as they do for what the system refuses: a
    file, a full disk, memory. Nothing else is caught, so a traceback always means a defect of ours.
    """
