"""explain: what the translation makes of a request, change by change, and the prompt that the model reads."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from devstral_proxy import validation
from devstral_proxy.config import load
from devstral_proxy.errors import ProxyError
from devstral_proxy.mistral.profiles import BUILT_IN, ModelProfile, Profiles
from devstral_proxy.mistral.rewrites import REWRITES, RewriteLog
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.server.body import parse_object
from devstral_proxy.upstream.capabilities import for_version


def run(options: argparse.Namespace) -> int:
    """Print the explanation; 1 when the request is refused or cannot be read. Raises ConfigError."""
    settings = load()
    try:
        raw = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
        request = parse_object(raw)
        if options.model is not None:
            request["model"] = options.model
        profile = _profile(Profiles(settings.profile_overrides), options.profile, request.get("model"))
        translator = Translator(profile, capabilities=for_version(settings.vllm_version))
        translated = translator.request(request)
    except OSError as error:
        print(f"{options.file} cannot be read: {error.strerror}", file=sys.stderr)
        return 1
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    except ProxyError as error:
        where = f" ({error.param})" if error.param else ""
        print(f"refused with status {error.status}{where}: {error.message}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(translated, ensure_ascii=False, indent=2))
        return 0
    print(f"profile    {profile.name}: tokenizer {profile.tokenizer}, images {_yes(profile.images)}, "
          f"reasoning {_yes(profile.reasoning)}")  # fmt: skip
    print("\n".join(told(translator.rewrites)))
    return _show_prompt(translated, profile)


def told(log: RewriteLog) -> list[str]:
    """Each named rewrite with its reason, and below it the paths that it changed."""
    if not log:
        return ["rewrites   none: the request goes through unchanged"]
    places: dict[str, list[str]] = {}
    for name, where in log.entries:
        places.setdefault(name, []).append(where)
    lines = [f"rewrites   {len(log.entries)}"]
    for name, paths in places.items():
        row = REWRITES[name]
        lines.append(f"  {name}: {row.says}" + (f" [{row.modes}]" if row.modes else ""))
        for path in filter(None, dict.fromkeys(paths)):
            times = paths.count(path)
            lines.append(f"    {path} ×{times}" if times > 1 else f"    {path}")
    return lines


def _show_prompt(translated: dict[str, Any], profile: ModelProfile) -> int:
    try:
        text = validation.prompt(translated, profile.tokenizer)
    except ImportError:
        print("prompt     mistral-common is not installed")
    except ValueError as error:
        print(f"prompt     not shown: {error}")
    except ProxyError as error:
        print(f"prompt     {error.message}", file=sys.stderr)
        return 1
    else:
        print(f"prompt     as tokenizer {profile.tokenizer} writes it:\n{text}")
    return 0


def _profile(profiles: Profiles, name: str | None, model: Any) -> ModelProfile:
    """Raises LookupError, with the names that there are, for a profile that is none."""
    if name is None:
        return profiles.find(model if isinstance(model, str) else "")
    found = profiles.find(name)
    if found.name.lower() != name.lower():
        known = sorted({profile.name for profile, _ in BUILT_IN} | {"strictest"})
        raise LookupError(f"there is no profile {name!r}; there are {', '.join(known)}, and those of MODEL_PROFILES")
    return found


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
