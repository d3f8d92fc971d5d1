"""The rules by which an optimizer steps, and its rates."""

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Final, Literal

from piggyback.shell.errors import BadInput, UnknownName, shown


@dataclass(frozen=True, kw_only=True)
class AdamRule:
    """Adam (Kingma and Ba, 2015) with torch's defaults.  Weight decay is L2, and never applied to masks.

    Raises:
        BadInput: a beta is not in [0, 1), or another number negative or not finite.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise BadInput(f"Adam's betas are two numbers, not {shown(self.betas)}")
        for beta in self.betas:
            check_number("a beta of Adam", beta, below=1.0)
        check_number("Adam's eps", self.eps)
        check_number("weight_decay", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class SGDRule:
    """Stochastic gradient descent with momentum.  Weight decay is L2, and never applied to masks.

    Raises:
        BadInput: a number is negative or not finite, or Nesterov's form is asked for without momentum.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_number("momentum", self.momentum)
        check_number("weight_decay", self.weight_decay)
        if self.nesterov and not self.momentum:
            raise BadInput("Nesterov's form needs momentum: take nesterov=False, or a momentum above 0")


Rule = AdamRule | SGDRule
RuleName = Literal["adam", "sgd"]
RULES: Final[dict[str, type[Rule]]] = {"adam": AdamRule, "sgd": SGDRule}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Base learning rates of the four kinds of parameters.

    Raises:
        BadInput: one is negative or not finite.
    """

    mask: float
    head: float
    norm: float
    weight: float

    def __post_init__(self) -> None:
        for field in fields(self):
            check_number(f"{field.name}_lr", getattr(self, field.name))


def check_number(name: str, value: object, *, below: float = math.inf) -> None:
    """Refuse what is no finite number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < below:
        most = "" if below == math.inf else f" below {below:g}"
        raise BadInput(f"{name} must be a finite number{most} that is not negative, not {shown(value)}")


def find_rule(rule: object) -> Rule:
    """A rule from itself, its class or its name, with torch's defaults.

    Raises:
        UnknownName: there is no rule of that name.
        BadInput: it is something else, such as an optimizer of torch's.
    """
    if isinstance(rule, str):
        if rule.lower() not in RULES:
            raise UnknownName(rule, known=RULES, kind="rule")
        return RULES[rule.lower()]()
    if isinstance(rule, type) and issubclass(rule, AdamRule | SGDRule):
        return rule()
    if isinstance(rule, AdamRule | SGDRule):
        return rule
    found = rule.__name__ if isinstance(rule, type) else type(rule).__name__
    raise BadInput(
        f"a rule is 'adam', 'sgd', AdamRule(...) or SGDRule(...), not {found}: real masks take one step per gradient, "
        "so no other optimizer can step them, least of all one that searches along a line as LBFGS does"
    )
