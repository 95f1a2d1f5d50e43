"""A check, before a push, that a worker will read the same parameters from their JSON.

JSON has no dates, no tuples and no numbers as keys. If a field is declared as `Any`, pydantic can't turn the text
of a date into a date again. So a push compares the values of such open fields with the values that come back.
Pydantic's schema tells which fields are open; it is read once for each type. A type without open fields costs
nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from types import NoneType
from typing import Any

Schema = Mapping[str, Any]

_JSON = {bool: "boolean", int: "integer", float: "float", str: "string", NoneType: "null"}
_NATIVE = {"bool": bool, "int": int, "float": float, "str": str, "none": NoneType}
_AS_STRINGS = {
    "bytes", "date", "time", "datetime", "timedelta", "decimal", "fraction", "complex", "uuid", "url",
    "multi-host-url",
}  # fmt: skip
_ONE_INSIDE = {
    "default", "custom-error", "function-before", "function-after", "function-wrap",
    "model-field", "typed-dict-field", "dataclass-field",
}  # fmt: skip
_ARRAYS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_ANYTHING = frozenset([*_JSON.values(), "array", "object"])
_MISSING = object()
_BY_IDENTITY: Any = object.__eq__


class LossyValue:
    """A value that would change on the way. The text says how it would arrive, and what to do.

    Attributes:
        path: The fields and indexes that lead to the value, the innermost first.
    """

    def __init__(self, text: str) -> None:
        self.path: list[str] = []
        self.text = text

    def inside(self, step: object) -> "LossyValue":
        """Add the field or index of the next outer level, and return the fault."""
        self.path.append(str(step))
        return self


Check = Callable[[Any, Any], LossyValue | None]
"""A function that compares a value with the value that came back from its JSON, and returns the first fault."""


class RoundTrip:
    """The round-trip check of one parameter type, made from pydantic's core schema.

    Attributes:
        check: Compares parameters with what came back from their JSON; None: the type has no open fields.
        decodes: Whether the JSON must be decoded in the way of a worker, not strictly. If not, `check` only
            compares the types of values.
    """

    def __init__(self, schema: Schema) -> None:
        self.decodes = False
        self._definitions: dict[str, Schema] = {}
        self._referred: dict[str, Check | None] = {}
        self._only_types: dict[Check, type[Any]] = {}  # the checks that only compare a type
        self.check = self._of(schema)

    def _of(self, schema: Schema) -> Check | None:
        kind = schema["type"]
        if kind in _NATIVE or kind in _AS_STRINGS or kind in ("literal", "enum"):
            return None
        if kind in _ONE_INSIDE:
            return self._of(schema["schema"])
        match kind:
            case "nullable":
                return _unless_none(self._of(schema["schema"]))
            case "lax-or-strict":
                return self._of(schema["strict_schema"])
            case "json-or-python" if not self._kinds(schema) & {"array", "object"}:
                return self._of(schema["json_schema"])
            case "definitions":
                self._definitions |= {definition["ref"]: definition for definition in schema["definitions"]}
                return self._of(schema["schema"])
            case "definition-ref":
                return self._reference(schema["schema_ref"])
            case "list" | "deque":
                return self._each(self._of(schema.get("items_schema", _ANY)))
            case "generator":
                return self._each_of_iterable(self._of(schema.get("items_schema", _ANY)))
            case "set" | "frozenset":
                return _same if self._of(schema.get("items_schema", _ANY)) else None
            case "tuple":
                return self._tuple(schema)
            case "dict":
                return self._dict(schema)
            case "union" | "tagged-union":
                return self._union(schema)
            case "model" | "dataclass":
                return self._instance(schema)
            case "typed-dict":
                return self._typed_dict(schema)
            case "named-tuple":
                self.decodes = True
                return _same_row(schema["cls"])
            case "call" if isinstance(schema["function"], type):  # before pydantic 2.14, also a named tuple
                self.decodes = True
                return _same_row(schema["function"])
        self.decodes = True  # declared as Any, or a kind of schema that is not known here
        return _same

    def _reference(self, ref: str) -> Check | None:
        if ref not in self._referred:

            def check(value: Any, decoded: Any) -> LossyValue | None:
                found = self._referred[ref]
                return found(value, decoded) if found else None

            self._referred[ref] = check  # set before the definition is read, which may refer to itself
            self._referred[ref] = self._of(self._definitions[ref])
        return self._referred[ref]

    def _each(self, inner: Check | None) -> Check | None:
        if inner is None:
            return None
        only = {self._only_types.get(inner)}

        def check(value: Any, decoded: Any) -> LossyValue | None:
            if only.issuperset(map(type, value)):
                return None
            for at, (one, other) in enumerate(zip(value, decoded, strict=False)):
                if fault := inner(one, other):
                    return fault.inside(at)
            return None

        return check

    def _each_of_iterable(self, inner: Check | None) -> Check | None:
        each = self._each(inner)
        if each is None:
            return None
        once = "has items of any type, which can't be compared, as it can be read only once; annotate them"
        return lambda value, decoded: each(value, decoded) if hasattr(value, "__len__") else LossyValue(once)

    def _tuple(self, schema: Schema) -> Check | None:
        checks = [self._of(item) for item in schema["items_schema"]]
        if not any(checks):
            return None
        many = schema.get("variadic_item_index")

        def check(value: Any, decoded: Any) -> LossyValue | None:
            spread = checks
            if many is not None:
                spread = [*checks[:many], *[checks[many]] * (len(value) - len(checks) + 1), *checks[many + 1 :]]
            for at, (found, one, other) in enumerate(zip(spread, value, decoded, strict=False)):
                if found and (fault := found(one, other)):
                    return fault.inside(at)
            return None

        return check

    def _dict(self, schema: Schema) -> Check | None:
        keys, values = schema.get("keys_schema", _ANY), self._of(schema.get("values_schema", _ANY))
        # All keys of JSON are strings, so the kind of a key can't tell the members of a union apart.
        open_keys = self._of(keys) is not None or len(self._kinds(keys)) > 1
        self.decodes = self.decodes or open_keys
        if values is None and not open_keys:
            return None

        def check(value: Any, decoded: Any) -> LossyValue | None:
            if open_keys and (fault := _same_keys(value, decoded)):
                return fault
            if values is not None:
                for key, one, other in zip(value, value.values(), decoded.values(), strict=False):
                    if fault := values(one, other):
                        return fault.inside(key)
            return None

        return check

    def _union(self, schema: Schema) -> Check | None:
        choices = schema["choices"]
        if isinstance(choices, Mapping):  # the choices by their tags
            choices = list(choices.values())
        choices = [choice[0] if isinstance(choice, tuple) else choice for choice in choices]
        checks = [self._of(choice) for choice in choices]
        kinds = [self._kinds(choice) for choice in choices]
        apart = sum(map(len, kinds)) == len(frozenset().union(*kinds)) and schema.get("mode") != "left_to_right"
        if apart and not any(checks):
            return None
        self.decodes = self.decodes or not apart
        by_type: dict[Any, Check | None] = {}
        for choice, found in zip(choices, checks, strict=True):
            python = self._python_type(choice)
            by_type[python] = _same if python in by_type else found

        def check(value: Any, decoded: Any) -> LossyValue | None:
            if type(value) is not type(decoded):
                return _same(value, decoded) and _taken_for_another(value, type(decoded))
            found = by_type.get(type(value), _same)
            return found(value, decoded) if found else None

        return check

    def _instance(self, schema: Schema) -> Check:
        """Return the check of a model or a dataclass. It refuses a subclass, whose own fields would be lost."""
        declared, inside = schema["cls"], self._resolved(schema["schema"])
        if schema.get("root_model"):
            fields = {"root": self._of(inside)}
        else:
            listed = inside.get("fields", ())
            named = listed.items() if isinstance(listed, Mapping) else [(one["name"], one) for one in listed]
            fields = {name: self._of(field) for name, field in named if _is_carried(field)}
        extra = schema["type"] == "model" and declared.model_config.get("extra") == "allow"
        self.decodes = self.decodes or extra
        checks = [(name, found) for name, found in fields.items() if found]

        def only_type(value: Any, _decoded: Any) -> LossyValue | None:
            return None if type(value) is declared else _changed(value, declared)

        if not checks and not extra:
            self._only_types[only_type] = declared
            return only_type

        def check(value: Any, decoded: Any) -> LossyValue | None:
            if type(value) is not declared:
                return _changed(value, declared)
            for name, found in checks:
                one = getattr(value, name, _MISSING)
                if one is not _MISSING and (fault := found(one, getattr(decoded, name))):
                    return fault.inside(name)
            return _same(value.__pydantic_extra__, decoded.__pydantic_extra__) if extra else None

        return check

    def _typed_dict(self, schema: Schema) -> Check:
        known = frozenset(schema["fields"])
        carried = {name: self._of(field) for name, field in schema["fields"].items() if _is_carried(field)}
        checks = {name: found for name, found in carried.items() if found}
        behaviour = schema.get("extra_behavior") or schema.get("config", {}).get("extra_fields_behavior")
        extra = behaviour == "allow"
        self.decodes = self.decodes or extra

        def check(value: Any, decoded: Any) -> LossyValue | None:
            if not extra and not value.keys() <= known:
                # Pydantic drops unknown keys: a misspelt optional key would be lost without an error.
                return LossyValue(f"has no key {', '.join(sorted(map(repr, value.keys() - known)))}")
            for name, found in checks.items():
                if name in value and (fault := found(value[name], decoded[name])):
                    return fault.inside(name)
            for name in value.keys() - known:
                if fault := _same(value[name], decoded[name]):
                    return fault.inside(name)
            return None

        return check

    def _resolved(self, schema: Schema) -> Schema:
        """Return the schema inside validators and references."""
        while True:
            if schema["type"] == "definition-ref":
                schema = self._definitions[schema["schema_ref"]]
            elif schema["type"] in _ONE_INSIDE:
                schema = schema["schema"]
            else:
                return schema

    def _python_type(self, schema: Schema) -> Any:
        schema = self._resolved(schema)
        if schema["type"] == "typed-dict":
            return dict
        return schema.get("cls") or _ARRAYS.get(schema["type"]) or (dict if schema["type"] == "dict" else None)

    def _kinds(self, schema: Schema) -> frozenset[str]:
        """Return the kinds of JSON values that values of this type become."""
        schema = self._resolved(schema)
        kind = schema["type"]
        if kind in _NATIVE:
            return frozenset([_JSON[_NATIVE[kind]]])
        if kind in _AS_STRINGS:
            return frozenset(["string"])
        if kind in _ARRAYS or kind in ("deque", "generator"):
            return frozenset(["array"])
        if kind in ("dict", "typed-dict", "dataclass") or (kind == "model" and not schema.get("root_model")):
            return frozenset(["object"])
        match kind:
            case "literal" | "enum":
                values = [getattr(value, "value", value) for value in schema.get("expected") or schema["members"]]
                return frozenset(_JSON.get(type(value), "object") for value in values)
            case "nullable":
                return self._kinds(schema["schema"]) | {"null"}
            case "lax-or-strict":
                return self._kinds(schema["strict_schema"])
            case "json-or-python":
                return self._kinds(schema["json_schema"])
        return _ANYTHING


_ANY: Schema = {"type": "any"}


def _is_carried(field: Schema) -> bool:
    """Return whether a field is written to JSON, and read again."""
    return not (field.get("serialization_exclude") or field.get("init_only") or field.get("init") is False)


def _unless_none(inner: Check | None) -> Check | None:
    if inner is None:
        return None
    return lambda value, decoded: None if value is None and decoded is None else inner(value, decoded)


def _same(value: Any, decoded: Any) -> LossyValue | None:
    """Compare two values by type and value, with everything inside them."""
    kind: Any = type(value)
    if kind is not type(decoded):
        if kind is int and type(decoded) is float and value == decoded:
            return None  # a field declared as a float may hold an int
        return _changed(value, type(decoded))
    if kind in _JSON:
        return None if value == decoded else _unequal(value, decoded)
    if isinstance(value, dict):
        if fault := _same_keys(value, decoded):
            return fault
        return _all_same(value, value.values(), decoded.values())
    if isinstance(value, list | tuple):
        return _all_same(range(len(value)), value, decoded)
    if isinstance(value, set | frozenset):
        return _same_members(value, decoded)
    # A class without __eq__ compares by identity: the type is the same, and there is nothing more to compare.
    return None if value == decoded or kind.__eq__ is _BY_IDENTITY else _unequal(value, decoded)


def _all_same(steps: Iterable[Any], values: Iterable[Any], others: Iterable[Any]) -> LossyValue | None:
    for step, one, other in zip(steps, values, others, strict=False):
        if fault := _same(one, other):
            return fault.inside(step)
    return None


def _same_members(value: Set[Any], decoded: Set[Any]) -> LossyValue | None:
    """Compare two sets, with the types of their members: 1 and True are equal."""
    if value != decoded:
        return _unequal(value, decoded)
    there = {other: other for other in decoded}
    for one in value:
        if _same(one, there[one]):
            kind = type(one).__name__
            wanted = f"{type(value).__name__}[{kind}]"
            return LossyValue(
                f"has a member {one!r} that would arrive as {there[one]!r}; annotate it, as {wanted}"
            )
    return None


def _same_row(declared: type[Any]) -> Check:
    """Return the check of a named tuple. It refuses a plain tuple, which pydantic accepts."""

    def check(value: Any, decoded: Any) -> LossyValue | None:
        if type(value) is tuple:
            name = declared.__name__
            return LossyValue(f"would arrive as a {name}, not as a tuple; make it a {name}")
        return _same(value, decoded)

    return check


def _same_keys(value: Mapping[Any, Any], decoded: Mapping[Any, Any]) -> LossyValue | None:
    if len(value) != len(decoded):
        return LossyValue(
            f"has {len(value)} keys, and would arrive with {len(decoded)}; annotate it, as dict[int, ...]"
        )
    for key, other in zip(value, decoded, strict=True):
        if type(key) is not type(other) or key != other:
            kind = type(key).__name__
            return LossyValue(
                f"has a key {key!r} that would arrive as {other!r}; annotate it, as dict[{kind}, ...]"
            )
    return None


def _changed(value: Any, other: type[Any]) -> LossyValue:
    kind = type(value).__name__
    return LossyValue(f"would arrive as a {other.__name__}, not as a {kind}; annotate it with {kind}")


def _taken_for_another(value: Any, other: type[Any]) -> LossyValue:
    """Return the fault for a value of a union whose JSON is read as another member of the union."""
    kind = type(value).__name__
    return LossyValue(
        f"would arrive as a {other.__name__}, not as a {kind}, as its JSON is read as one; declare {kind} alone"
    )


def _unequal(value: Any, decoded: Any) -> LossyValue:
    return LossyValue(f"would arrive as {_short(decoded)}, not as {_short(value)}; annotate it with its type")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
