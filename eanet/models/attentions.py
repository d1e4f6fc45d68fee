"""Every attention by name: the one table that a new one is added to."""

from typing import Any

from eanet.models.attention import ExternalAttention
from eanet.models.attention_fast import FastExternalAttention
from eanet.models.base import Attention
from eanet.models.no_attention import NoAttention
from eanet.models.self_attention import SelfAttention
from eanet.platforms import suits
from eanet.rules import Rule

# By `model.attention`, then by `model.implementation`; where there is no such implementation, the
# first one. All of one name have the same parameters and compute the same function.
ATTENTIONS: dict[str, dict[str, type[Attention]]] = {
    "external": {"fast": FastExternalAttention, "plain": ExternalAttention},
    "self": {"fast": SelfAttention},
    "none": {"plain": NoAttention},
}


def attention_class(attention: str, implementation: str) -> type[Attention]:
    """The class for two values of a config."""
    forms = ATTENTIONS[attention]
    return forms.get(implementation) or next(iter(forms.values()))


def implementation_for(attention: str, **sizes: Any) -> str:
    """What "auto" stands for where this process computes, in a model of these sizes."""
    forms = ATTENTIONS[attention].items()
    return next((name for name, form in forms if suits(loops=form.loops(**sizes))), "")


def attention_rules() -> dict[str, Rule]:
    """The rules of the options that single attentions have, by name."""
    forms = (form for forms in ATTENTIONS.values() for form in forms.values())
    return {name: rule for form in forms for name, rule in form.RULES.items()}
