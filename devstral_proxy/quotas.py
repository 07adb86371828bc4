"""Who may ask how much a minute: RATE_LIMITS as an operator writes it, and the row that counts for a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

ANY: Final = "*"
_FIELDS: Final = ("rpm", "tpm")


class Quota(NamedTuple):
    """Requests and tokens a minute; 0: as many as one likes."""

    rpm: int = 0
    tpm: int = 0


class Quotas:
    """`table` is RATE_LIMITS, by the key's name and the model's (or `*`); `default` holds for what it does not say."""

    def __init__(self, default: Quota, table: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
        self._default = default
        self._table = table

    def __bool__(self) -> bool:
        """Whether anything is limited at all."""
        rows = [row for models in self._table.values() for row in models.values()]
        return any(self._default) or any(any(row.values()) for row in rows)

    def find(self, key: str, model: str) -> Quota:
        """The quota of a key and a model: for each field, the row that names both wins, then the key's, the model's."""
        rpm, tpm = self._default
        for name, served in ((ANY, ANY), (ANY, model), (key, ANY), (key, model)):
            models = self._table.get(name)
            row = models.get(served) if models is not None else None
            if row is not None:
                rpm, tpm = row.get("rpm", rpm), row.get("tpm", tpm)
        return Quota(rpm, tpm)


def table_of(value: Any) -> dict[str, dict[str, dict[str, int]]]:
    """RATE_LIMITS, checked. Raises ValueError that names the place of what is wrong."""
    for key, models in _entries(value, "it"):
        for model, row in _entries(models, key):
            for field, amount in _entries(row, f"{key}.{model}"):
                if field not in _FIELDS:
                    raise ValueError(f"{key}.{model}: may hold rpm and tpm only")
                if type(amount) is not int or amount < 0:
                    raise ValueError(f"{key}.{model}.{field}: must be a whole number, 0 for no limit")
    table: dict[str, dict[str, dict[str, int]]] = value
    return table


def _entries(value: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f'{where} must be an object, as in {{"*": {{"*": {{"rpm": 60}}}}}}')
    return list(value.items())
