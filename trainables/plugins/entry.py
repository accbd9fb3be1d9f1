"""Entries: what a sweep file can name. A function or a config class with one decorator."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    GetCoreSchemaHandler,
    ValidationInfo,
    create_model,
    model_validator,
)
from pydantic_core import (
    PydanticCustomError,
    PydanticKnownError,
    core_schema,
    to_jsonable_python,
)

from trainables.config import CODE, Config
from trainables.errors import Hopeless, UserError

Thing = TypeVar("Thing", bound=Any)
"""A function or a config class."""


class PluginError(UserError, Hopeless, ValueError):
    """A plug-in cannot be used; the text says where, why and what to do."""


class Entry(Config):
    """A config that a sweep file names, `{name: NAME, option: value, …}`; to be called.

    What it is called with, and what it gives, is its kind's. One that was made of a function calls
    that with its options as keywords.
    """

    kind: ClassVar["Kind"]
    function: ClassVar[Callable[..., Any] | None] = None
    entry_name: ClassVar[str] = ""
    option_names: ClassVar[tuple[str, ...]] = ()
    companions: ClassVar[tuple[type["Entry"], ...]] = ()
    """Entries of other kinds that come with this one."""
    plugin: ClassVar[Any] = None
    """The `Plugin` that it is of; None for what prunesweep ships."""

    if TYPE_CHECKING:
        name: Any  # each entry's own, as Literal["mlp"]
    else:
        name: str

    @classmethod
    def ledger_name(cls) -> str:
        return f"{cls.kind.name}/{cls.entry_name}" if cls.entry_name else cls.__name__

    @classmethod
    def ledger_parts(cls) -> tuple[str, ...]:
        """As of every config; of what a criterion is at initialization, those of the criterion too,
        and of plugged-in entries what prunesweep gives plug-ins of their kind to compute with."""
        mine = super().ledger_parts()
        if cls.plugged_code is not None:
            mine += (f"plug-ins/{cls.kind.name}",)
        made = vars(cls.function)["config"] if cls.function else cls
        return mine if made is cls else mine + made.ledger_parts()

    @model_validator(mode="after")
    def _refuse_what_has_no_identity(self) -> Self:
        """What may change after it was looked at, or is more than a value, identifies nothing."""
        for name in type(self).model_fields if self.plugged_code is not None else ():
            value = getattr(self, name)
            try:
                hash(value)
                to_jsonable_python(value)
            except (TypeError, ValueError):
                message = (
                    "{where}: the option {name} is of the type {what}, which identifies nothing; "
                    "make it a number, a truth value, text, a tuple in the place of a list, or a "
                    "Config in that of a dict"
                )
                told = {"where": self.where(), "name": name, "what": type(value).__name__}
                raise PydanticCustomError("no_identity", message, told | {"at": (name,)}) from None
        return self

    @classmethod
    def ordered(cls) -> tuple[str, ...]:
        """The names of the fields, in the order in which labels have them: those of the class
        itself before those that it inherits."""
        if cls.function is not None:
            return tuple(cls.model_fields)
        names = [name for base in cls.__mro__ for name in inspect.get_annotations(base)]
        return tuple(dict.fromkeys(name for name in names if name in cls.model_fields))

    @classmethod
    def where(cls) -> str:
        """The file and line where its function or class is."""
        return location(cls.function or cls)

    def call(self, *arguments: Any) -> Any:
        """Call the function that this was made of."""
        assert self.function is not None
        rest = (self.name.partition(":")[2],) if self.entry_name.endswith(":") else ()
        options = {name: getattr(self, name) for name in self.option_names}
        return type(self).function(*arguments, *rest, **options)  # pyright: ignore


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of entries: its name, the base of its configs, and what functions are called with.

    The built-in ones are in `modules`, or in the modules of those that are packages. Sweep files
    have the name under `key`; without a name, `default` is meant. `check` raises PluginError when a
    config class of this kind cannot be used.
    """

    name: str
    base: type[Entry]
    arguments: tuple[str, ...]
    modules: tuple[str, ...]
    default: str | None = None
    check: Callable[[type[Entry]], None] = field(default=lambda config: None)
    key: str = "name"

    def register(self, thing: Thing) -> Thing:
        """The decorator: makes a function, or a config class, an entry of this kind.

        A function's keyword-only parameters, each with a type and most with a default, are its
        options; `thing.config` is then its config class. A name that ends in a colon, as given to
        `named`, stands for all names that begin so. Raises PluginError.
        """
        return self.named(None)(thing)

    def named(self, name: str | None) -> Callable[[Thing], Thing]:
        """The decorator with another name than the function's."""

        def register(thing: Any) -> Any:
            if isinstance(thing, type):
                self.adopt(thing)
            else:
                self.made_of(thing, name or thing.__name__)
            return thing

        return register

    def made_of(
        self,
        function: Any,
        name: str,
        *bases: type[Config],
        attribute: str = "config",
        **fields: Any,
    ) -> type[Any]:
        """Make a function an entry; the config class of its options, on top of `bases` and the
        kind's own, is from now on its `attribute`."""
        config = self._config_of(function, name, bases, fields)
        # By which it can be pickled.
        config.__qualname__ = f"{function.__qualname__}.{attribute}"
        setattr(function, attribute, config)
        self.adopt(config, name)
        return config

    def adopt(self, config: type[Any], name: str | None = None) -> None:
        """Make a config class an entry, of the name that it says. Raises PluginError."""
        if not issubclass(config, self.base):
            raise PluginError(f"{location(config)}: a {self.name} derives from {_named(self.base)}")
        config.kind, config.entry_name = self, name or _literal_name(config)
        _refuse_reserved(config, config.model_fields.keys() - {"name"}, Entry)
        self.check(config)

    def _config_of(
        self, function: Any, name: str, bases: tuple[type[Config], ...], fields: dict[str, Any]
    ) -> type[Any]:
        options = function_options(function, self.arguments, family=name.endswith(":"))
        _refuse_reserved(function, options, *bases, self.base)
        config = create_model(
            function.__name__,
            __base__=_essential((*bases, self.base)),
            __module__=function.__module__,
            __doc__=inspect.getdoc(function),
            name=(_name_type(name), ...),
            **fields,
            **options,
        )
        config.function, config.option_names = function, tuple(options)
        return config


def _essential(bases: tuple[type[Any], ...]) -> tuple[type[Any], ...]:
    """`bases` without those that others of them derive from."""
    return tuple(
        base for base in bases if not any(o is not base and issubclass(o, base) for o in bases)
    )


def function_options(
    function: Callable[..., Any], arguments: tuple[str, ...], *, family: bool = False
) -> dict[str, Any]:
    """The options of a function as fields: its keyword-only parameters. Raises PluginError when it
    cannot be called with as many positional `arguments`."""
    at = location(function)
    try:
        signature = inspect.signature(function)
        parameters = [*signature.parameters.values()]
        types = _types(function, parameters)
    except (NameError, TypeError) as error:
        raise PluginError(f"{at}: {function.__name__}: {error}") from error
    wanted = (*arguments, "name") if family else arguments
    positional = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if len(positional) != len(wanted) or any(p.kind in _STARS for p in parameters):
        shown = ", ".join(wanted)
        raise PluginError(
            f"{at}: {function.__name__} is called with ({shown}), and takes "
            f"{signature}; its options are keyword-only, after a *"
        )
    options: dict[str, Any] = {}
    for parameter in parameters[len(positional) :]:
        if parameter.annotation is inspect.Parameter.empty:
            raise PluginError(
                f"{at}: {function.__name__}: the option {parameter.name} has no type; write "
                f"{parameter.name}: float, or the like"
            )
        required = parameter.default is inspect.Parameter.empty
        options[parameter.name] = (types[parameter.name], ... if required else parameter.default)
    return options


def _types(function: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> dict[str, Any]:
    """The types of parameters, evaluated where they are text. That of what is returned nobody asks
    for, and it may be of what is slow to import."""
    types = {each.name: each.annotation for each in parameters}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    annotated = type("Annotated", (), {"__annotations__": types})
    return inspect.get_annotations(annotated, globals=names, locals={}, eval_str=True)


_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def location(thing: Any) -> str:
    """`file:line` of a function or class, for messages."""
    try:
        file = inspect.getsourcefile(thing) or "?"
        code = getattr(thing, "__code__", None)
        line = code.co_firstlineno if code else inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', '?')}"
    return f"{_shortest(file)}:{line}"


def described(found: Any) -> str:
    """What a plug-in gave, for messages: type and shape of a tensor or an array."""
    if hasattr(found, "dtype") and hasattr(found, "shape"):
        return f"{found.dtype} {tuple(found.shape)}"
    return type(found).__name__


def _shortest(file: str) -> str:
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return file


def _refuse_reserved(thing: Any, options: Iterable[str], *bases: type[Config]) -> None:
    """Raise PluginError when an option of `thing` would be taken for something of its `bases`."""
    reserved = {CODE, "name"}.union(*map(_names, bases))
    for option in options:
        if option in reserved:
            raise PluginError(f"{location(thing)}: an option cannot be called {option}; rename it")


def _names(base: type[Config]) -> set[str]:
    optional = {name for name, field in base.model_fields.items() if not field.is_required()}
    return {*dir(base), *base.__class_vars__, *optional}


def _literal_name(config: type[Any]) -> str:
    fields = getattr(config, "model_fields", {})
    names = get_args(fields["name"].annotation) if "name" in fields else ()
    if len(names) != 1:
        raise PluginError(
            f'{location(config)}: {config.__name__} has no name; add name: Literal["…"]'
        )
    return names[0]


def _name_type(name: str) -> Any:
    if not name.endswith(":"):
        return Literal[name]

    def begins_so(given: str) -> str:
        if not given.startswith(name) or given == name:
            raise ValueError(f"must be {name} and a name")
        return given

    return Annotated[str, AfterValidator(begins_so)]


def _named(base: type[Entry]) -> str:
    return f"{base.__module__}.{base.__qualname__}"


# --- what there is


def entries(module: ModuleType) -> Iterator[type[Entry]]:
    """The entries that a module defines, in their order."""
    for thing in [*vars(module).values()]:
        config = (
            thing
            if isinstance(thing, type)
            else vars(thing).get("config")
            if callable(thing) and hasattr(thing, "__dict__")
            else None
        )
        if not (isinstance(config, type) and issubclass(config, Entry)):
            continue
        if config.entry_name and "kind" in vars(config) and config.__module__ == module.__name__:
            yield config
            yield from config.companions


@cache
def built_in(kind: Kind) -> Mapping[str, type[Entry]]:
    """The entries of a kind that prunesweep ships, by name."""
    modules = (module for name in kind.modules for module in _with_submodules(name))
    found = (entry for module in modules for entry in entries(module))
    return {entry.entry_name: entry for entry in found if entry.kind is kind}


def _with_submodules(name: str) -> Iterator[ModuleType]:
    module = import_module(name)
    yield module
    for each in iter_modules(getattr(module, "__path__", ())):
        yield import_module(f"{name}.{each.name}")


@dataclass(frozen=True)
class Catalogue:
    """What a sweep file can name: what is built in, and the plugged-in entries by kind."""

    plugged: Mapping[str, Mapping[str, type[Entry]]] = field(default_factory=dict)

    def of(self, kind: Kind) -> dict[str, type[Entry]]:
        """All entries of a kind by name."""
        return {**built_in(kind), **self.plugged.get(kind.name, {})}

    def find(self, kind: Kind, name: Any) -> type[Entry] | None:
        """The entry with that name, or the one whose names begin as this one does."""
        known = self.of(kind)
        if not isinstance(name, str):
            return None
        head, colon, _ = name.partition(":")
        return known.get(name) or known.get(head + colon)


BUILT_IN = Catalogue()


@dataclass(frozen=True)
class Named:
    """Annotates a field whose value is an entry of a kind: `Annotated[Model, Named(MODEL)]`.

    A name alone stands for the entry with its defaults. Plugged-in entries are those of the
    `Catalogue` in the validation's context.
    """

    kind: Kind

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._chosen,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: self._written(value.model_dump(mode=info.mode)), info_arg=True
            ),
        )

    def _chosen(self, value: Any, info: ValidationInfo) -> Entry:
        if isinstance(value, self.kind.base):
            return value
        key = self.kind.key
        if isinstance(value, str):
            value = {key: value}
        if not isinstance(value, Mapping):
            raise PydanticKnownError("model_attributes_type")
        catalogue = info.context if isinstance(info.context, Catalogue) else BUILT_IN
        name = value.get(key, self.kind.default)
        if name is None:
            raise PydanticCustomError("no_name", "needs a name", {"key": key})
        entry = catalogue.find(self.kind, name)
        if entry is None:
            known = [*catalogue.of(self.kind)]
            raise PydanticCustomError("unknown_name", "unknown", {"tag": name, "known": known})
        options = {n: each for n, each in value.items() if n != key}
        known = [key, *(n for n in entry.model_fields if n != "name")]
        for option in options.keys() - known if key != "name" else ():
            context = {"key": option, "known": known, "of": ""}
            raise PydanticCustomError("unknown_key", "unknown key", context)
        return entry.model_validate({"name": name, **options}, context=info.context)

    def _written(self, values: dict[str, Any]) -> dict[str, Any]:
        return {self.kind.key if n == "name" else n: each for n, each in values.items()}
