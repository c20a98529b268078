"""Lists and removes what a test run made in the Docker Engine."""

from collections.abc import Iterable

from tests.image.docker import docker, label, lines, run_name

KINDS = {
    "container": ("ps", "--all", "--quiet", "--no-trunc"),
    "volume": ("volume", "ls", "--quiet"),
    "network": ("network", "ls", "--quiet", "--no-trunc", "--filter", "type=custom"),
    "image": ("image", "ls", "--quiet", "--no-trunc"),
}
REMOVE = {
    "container": ("rm", "--force", "--volumes"),
    "volume": ("volume", "rm", "--force"),
    "network": ("network", "rm", "--force"),
    "image": ("image", "rm", "--force"),
}

Things = frozenset[tuple[str, str]]


def found(*, private: bool) -> Things:
    """All that a private engine holds; in another one, where others may be at work, what carries this run's name."""
    return _everything() if private else _of_run()


def _everything() -> Things:
    return frozenset((kind, one) for kind, command in KINDS.items() for one in lines(*command))


def _of_run() -> Things:
    """By its label, or by its name where compose has given the names."""
    filters = (f"label={label()}", f"name={run_name()}")
    listed = {
        (kind, one)
        for kind in ("container", "volume", "network")
        for which in filters
        for one in lines(*KINDS[kind], "--filter", which)
    }
    return frozenset(listed | {("image", one) for one in lines(*KINDS["image"], run_name())})


def remove(things: Things) -> None:
    for kind, command in REMOVE.items():
        names = [name for one, name in sorted(things) if one == kind]
        if names:
            docker(*command, *names)


def words(things: Iterable[tuple[str, str]]) -> list[str]:
    """For people."""
    return [f"{kind} {name[:19]}" for kind, name in sorted(things)]
