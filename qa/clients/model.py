"""What a client is here: where it comes from, how it is set up and started, what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

BASE: Final = "http://127.0.0.1:9000"
"""Where the proxy is in every configuration below; the runner writes the real port in its place."""
MODEL: Final = "devstral-small-2"
KEY: Final = "unused"
ROOT: Final = Path(__file__).parents[2]
Api = Literal["chat", "responses", "messages"]


@dataclass(frozen=True)
class Package:
    """Pinned packages in a folder of their own. `python`: versions of Python that serve, as in `3.12`, best first."""

    folder: str
    kind: Literal["npm", "pip"]
    specs: tuple[str, ...]
    python: tuple[str, ...] = ()

    @property
    def bin(self) -> str:
        """Where its commands are, below the folder."""
        return "node_modules/.bin" if self.kind == "npm" else "bin"


@dataclass(frozen=True)
class File:
    """A file of a client's configuration. `path` is below the home; `shown`: how the documentation names it."""

    path: str
    text: str
    shown: str = ""

    @property
    def language(self) -> str:
        """Of the code block in the documentation."""
        return {"json": "json", "jsonc": "jsonc", "toml": "toml", "yaml": "yaml", "yml": "yaml"}.get(
            self.path.rpartition(".")[2], ""
        )


@dataclass(frozen=True)
class Client:
    """One row of the table.

    name, title     short name, and the one people know
    api             the API that it speaks
    command         what is run in the workspace; `{bin}`, `{home}`, `{work}`, `{task}`, `{sdk}` are filled in
    files           its configuration; BASE stands for the proxy
    env             variables of the configuration that people need too
    quiet           variables that only the runner needs: no telemetry, no updates; `{home}`, `{work}`, `{root}` (the
                    checkout) and `{picture}` (a data URL, or nothing) are filled in
    tools           it uses the API's tools; without: it reads the model's text
    image           arguments that attach the workspace's `pic.png`; None: it cannot, or not headless
    image_read      it shows a picture to the model that its reading tool is asked for
    gives_up        scenario -> why it is right that it ends with an error there
    skip            scenario -> why it is not run there
    notes           what is known about it, for the documentation
    of              which of the packages it is, where not the first
    documented      its configuration is in docs/clients.md
    """

    name: str
    title: str
    api: Api
    package: Package
    command: tuple[str, ...]
    files: tuple[File, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    quiet: Mapping[str, str] = field(default_factory=dict)
    tools: bool = True
    image: tuple[str, ...] | None = None
    image_read: bool = False
    gives_up: Mapping[str, str] = field(default_factory=dict)
    skip: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    of: str = ""
    documented: bool = True

    @property
    def release(self) -> tuple[str, str]:
        """Name and version of what is tested."""
        mark = "@" if self.package.kind == "npm" else "=="
        names = dict(spec.rpartition(mark)[::2] for spec in self.package.specs)
        name = self.of or next(iter(names))
        return name, names[name]


@dataclass(frozen=True)
class Place:
    """The folders of one run, and the proxy's address."""

    home: Path
    work: Path
    bin: Path
    sdk: Path
    base: str


def command_of(client: Client, place: Place, task: str, image: bool = False) -> list[str]:
    """The command line of a run."""
    filled = {"bin": place.bin, "home": place.home, "work": place.work, "sdk": place.sdk, "task": task}
    extra = client.image if image and client.image else ()
    made: list[str] = []
    for part in client.command:
        if part == "{image}":
            made += extra
        else:
            made.append(part.format_map(filled))
    return made


def environment_of(client: Client, place: Place, path: str, picture: str = "") -> dict[str, str]:
    """A clean environment: nothing of the caller's but the PATH gets in. `picture`: a data URL, or nothing."""
    fixed = {
        "PATH": path,
        "HOME": str(place.home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "CI": "1",
        "NO_COLOR": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "DO_NOT_TRACK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    filled = {"home": str(place.home), "work": str(place.work), "root": str(ROOT), "picture": picture}
    asked = {**client.quiet, **client.env}
    return fixed | {name: _placed(value, place.base, filled) for name, value in asked.items()}


def text_of(file: File, place: Place) -> str:
    """A file of the configuration as it is written for a run."""
    return file.text.replace(BASE, place.base)


def _placed(value: str, base: str, filled: Mapping[str, str]) -> str:
    for name, text in filled.items():
        value = value.replace(f"{{{name}}}", text)
    return value.replace(BASE, base)
