"""What a check has found, and the programs that it runs."""

import subprocess

problems = []


def problem(what):
    problems.append(what)
    print(f"PROBLEM {what}")


def run(*command, **more):
    return subprocess.run(command, text=True, capture_output=True, **more)
