"""The commands: serve (the default), demo, simulate, doctor, explain.

Each is a function of `devstral_proxy.commands`, imported when it is asked for, so that serving loads nothing of the
simulator or of mistral-common.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from devstral_proxy import __version__

TOKENIZERS = ("v3", "v7", "v11", "v13", "v15")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="devstral-proxy",
        description="A format-translation reverse proxy between OpenAI clients and Mistral models on vLLM.",
        epilog="Settings come from the environment and from .env: see docs/configuration.md.",
    )
    top.add_argument("--version", action="version", version=f"devstral-proxy {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the proxy (the default)")
    serve.add_argument("--host", help="instead of PROXY_HOST")
    serve.add_argument("--port", type=int, help="instead of PROXY_PORT")
    serve.add_argument("--workers", type=int, help="instead of WORKERS")

    demo = commands.add_parser("demo", help="proxy and simulated vLLM, one agent conversation, no GPU")
    demo.add_argument("--port", type=int, help="the proxy's port (default: PROXY_PORT, or a free one)")
    demo.add_argument("--once", action="store_true", help="end after the conversation, with 0 if all went well")

    simulate = commands.add_parser("simulate", help="run the simulated vLLM alone")
    simulate.add_argument("--host", default="127.0.0.1")
    simulate.add_argument("--port", type=int, default=8000)
    simulate.add_argument("--tokenizer", choices=TOKENIZERS, default="v13")
    simulate.add_argument("--model", default="devstral-small-2", help="the name it serves")
    simulate.add_argument("--vllm-version", default="0.32.0", help="the vLLM that it plays")

    commands.add_parser("doctor", help="ask the configured vLLM what it is, and say what that means")

    explain = commands.add_parser("explain", help="translate a request and say what was changed and why")
    explain.add_argument("file", help="a request as JSON; - reads standard input")
    explain.add_argument("--model", help="instead of the request's model")
    explain.add_argument("--profile", help="a profile's name, instead of the one the model's name leads to")
    explain.add_argument("--json", action="store_true", help="print the translated request, and nothing else")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 for success, 1 for failure, 2 for a wrong setting or command line."""
    from devstral_proxy.config import ConfigError

    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given = ["serve", *given]
    options = parser().parse_args(given)
    try:
        run = import_module(f"devstral_proxy.commands.{options.command}").run
        code: int = run(options)
        return code
    except ConfigError as error:
        print(f"devstral-proxy: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
