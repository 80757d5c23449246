"""Options that do not exist, or not in this form: one line each, with the name that was perhaps meant."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, NoReturn, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

# below this a name is further from the one that was given than it helps to know
_NEAR = 0.6


class OptionParser(ArgumentParser):
    """jsonargparse's parser whose errors are one line that says what to do.

    An unknown name, in a file or on the command line, is answered with the nearest one. On top of what jsonargparse
    refuses, it refuses a section that is no mapping (``model: 3``), ``null`` for an option that has to have a value,
    and a YAML file that gives one key twice, of which all but the last would count for nothing. And a word such as
    ``--model.args.pretrained_cfg_overlay.file`` sets that one key: jsonargparse would throw away its neighbours.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, parser_mode="yaml_once", **kwargs)

    def parse_args(  # type: ignore[override]  # argparse overloads it
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Any:
        """Read the command line; see jsonargparse.

        Args:
            args: Its words; those of the process if not given.
            *rest: See jsonargparse.
            **kwargs: See jsonargparse.

        Raises:
            SystemExit: Something is wrong with it; ``ArgumentError`` where ``exit_on_error`` is off.
        """
        words, deep = self._take_deep(list(sys.argv[1:] if args is None else args))
        options = super().parse_args(words, *rest, **kwargs)
        for option, keys, value in deep:
            options[option] = place = copy.deepcopy(options[option])
            for i, key in enumerate(keys[:-1]):
                place = place.setdefault(key, {})
                if not isinstance(place, dict):
                    self.error(f"{'.'.join([option, *keys[: i + 1]])} is {place!r}, which has no {keys[i + 1]!r}")
            place[keys[-1]] = value
        return options

    def _take_deep(self, words: list[str]) -> tuple[list[str], list[tuple[str, list[str], Any]]]:
        """Divide words into those for jsonargparse, and (option, keys, value) of those that reach two keys deep."""
        mappings = [a.dest for a in self._actions if get_origin(getattr(a, "_typehint", None)) is dict]
        left: list[str] = []
        deep = []
        while words:
            word = words.pop(0)
            name, equals, value = word.removeprefix("--").partition("=")
            option = next((option for option in mappings if name.startswith(f"{option}.")), None)
            keys = [] if option is None else name[len(option) + 1 :].split(".")
            if option is None or not word.startswith("--") or len(keys) < 2 or not (equals or words):
                left.append(word)
            else:
                deep.append((option, keys, get_loader("yaml")(value if equals else words.pop(0))))
        return left, deep

    def instantiate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        """Make the objects that the options describe; see jsonargparse.

        Raises:
            SystemExit: An option has a value of the wrong form; ``ArgumentError`` where ``exit_on_error`` is off.
        """
        for section in self.groups or ():
            value = namespace.get(section)
            if value is not None and not isinstance(value, (Namespace, dict)):
                first = next((name for name in self.option_names() if name.startswith(f"{section}.")), section)
                self.error(f"{section}: {value!r} is no mapping of options, such as {{{first.rpartition('.')[2]}: …}}")
            if value is None and section in namespace:
                self.error(f"{section}: null is no mapping of options; leave {section} out for the defaults")
        for action in self._actions:
            hint = getattr(action, "_typehint", None)
            if hint is not None and namespace.get(action.dest, "") is None and not _takes_none(hint):
                self.error(f"{action.dest}: null is no {_type_name(str(hint))}; leave it out for the default")
        made: Namespace = super().instantiate(namespace, *args, **kwargs)
        return made

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with code 2; raise ``ArgumentError`` where ``exit_on_error`` is off."""
        unknown = list(_unknown(message))
        if unknown:
            text = "  ".join(explain_unknown(name, self.option_names()) for name in unknown)
        else:
            text = _in_one_line(message)
        if not self.exit_on_error:
            super().error(text, ex)
        sys.stderr.write(f"error: {text} (`{self.prog} --help` explains all options)\n")
        self.exit(2)
        raise AssertionError("exit returned")  # for the type checker: argparse's does not

    def option_names(self) -> tuple[str, ...]:
        """Names of all options, dotted; sections are none."""
        found = (action.dest for action in self._actions if action.option_strings)
        return tuple(name for name in found if name not in (self.groups or ()) and name not in ("help", "print_config"))


def explain_unknown(name: str, options: Sequence[str]) -> str:
    """Say what to write instead of a name that is no option.

    Args:
        name: What was given, dotted: ``optim.learning_rate``.
        options: All options.

    Returns:
        A clause: ``optim.learning_rate is not an option; did you mean optim.lr?``
    """
    near = nearest_options(name, options)
    if near:
        return f"{name} is not an option; did you mean {' or '.join(near)}?"
    section, _, last = name.rpartition(".")
    if f"{section}.args" in options:
        return f"{name} is not an option; what {section} takes besides its options goes in {section}.args.{last}"
    there = [option for option in options if section and option.startswith(f"{section}.")]
    return f"{name} is not an option" + (
        f"; {section} has {', '.join(o[len(section) + 1 :] for o in there)}" * bool(there)
    )


def nearest_options(name: str, options: Sequence[str]) -> tuple[str, ...]:
    """Find the options that were perhaps meant: mistyped, abbreviated, written out, or in another section.

    Args:
        name: What was given, dotted.
        options: All options.

    Returns:
        Up to three of ``options`` that are equally near, the likeliest first; none if none is near.
    """
    # among options alike by their last part first the one alike as a whole
    ranked = sorted(
        ((_likeness(name, option), SequenceMatcher(None, name, option).ratio(), option) for option in options),
        reverse=True,
    )
    return tuple(option for near, _, option in ranked[:3] if near >= max(_NEAR, ranked[0][0] - 0.01))


def _likeness(name: str, option: str) -> float:
    """From 0 to 1; the parts of a name are what dots and underscores separate."""
    (given_section, _, given), (section, _, last) = name.lower().rpartition("."), option.lower().rpartition(".")
    words, given_words = last.split("_"), given.split("_")
    same_section = given_section == section
    if same_section:
        scores = [SequenceMatcher(None, given, last).ratio()]
    else:
        plain, given_plain = (re.sub("[._]", "", text.lower()) for text in (option, name))
        # what long names share is often no more than the section
        scores = [ratio for ratio in [SequenceMatcher(None, given_plain, plain).ratio()] if ratio >= 0.75]
    if given == last:
        scores.append(0.97)
    if _initials(given_words) == last or _initials(words) == given:  # learning_rate, wd
        scores.append(0.96 if same_section else 0.9)
    if set(given_words) <= set(words):  # warmup
        scores.append(0.97 if same_section else 0.7)
    if set(words) <= set(given_words):  # num_epochs
        scores.append(0.85 if same_section else 0.7)
    return max(scores, default=0.0)


def _initials(words: Sequence[str]) -> str | None:
    return "".join(word[:1] for word in words) if len(words) > 1 else None


def _unknown(message: str) -> Iterator[str]:
    """Names that a message of jsonargparse or argparse calls unknown."""
    found = re.fullmatch(r"Group '([^']+)' does not accept option '([^']+)'.*", message, flags=re.DOTALL)
    if found:
        yield f"{found[1]}.{found[2]}"
    found = re.fullmatch(r"Option '([^']+)' is not accepted.*", message, flags=re.DOTALL)
    if found:
        yield found[1]
    found = re.fullmatch(r"unrecognized arguments: (.*)", message, flags=re.DOTALL)
    if found:
        words = found[1].split(" ")
        names = [word[2:].partition("=")[0] for word in words if re.match(r"--\w", word)]
        yield from names or words[:1]


def _in_one_line(message: str) -> str:
    found = re.match(r'Parser key "([^"]+)":\s+Expected an? (.+?)\. Got value: (.*)', message, flags=re.DOTALL)
    if found:
        message = f"{found[1]}: {found[3]} is no {_type_name(found[2])}"
    found = re.match(
        r'Parser key "([^"]+)":.*Subtypes: \[(.+?)\]\s+Errors:.*Given value: (.*)', message, flags=re.DOTALL
    )
    if found:
        message = f"{found[1]}: {found[3]} is none of {_type_name(found[2])}"
    return " ".join(message.split())


def _type_name(hint: str) -> str:
    choices = re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", hint)
    plain = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", hint).replace("NoneType", "null")
    return f"choice among {choices[1]}" if choices else plain


def _takes_none(hint: Any) -> bool:
    return hint in (Any, None, type(None)) or type(None) in get_args(hint)


def _load_once(text: str) -> Any:
    _refuse_repeats(yaml.compose(text, Loader=yaml.SafeLoader))
    return get_loader("yaml")(text)


def _refuse_repeats(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        first: dict[str, yaml.Node] = {}
        for key, value in node.value:
            earlier = first.setdefault(str(key.value), key)
            if earlier is not key:
                lines = f"lines {earlier.start_mark.line + 1} and {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"{key.value!r} is given twice, in {lines}; only the last would count, remove one")
            _refuse_repeats(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeats(value)


set_loader("yaml_once", _load_once, exceptions=(yaml.YAMLError,))
