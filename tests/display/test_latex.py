import re
import string

from hypothesis import example, given
from hypothesis import strategies as st

from eanet.display import latex
from eanet.errors import printable

SET = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^",
    r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|",
    r"$\pm$": "±", r"$\times$": "×", "$-$": "−", "{--}": "–",
}  # fmt: skip
TOKEN = re.compile(r"\\[a-z]+\{\}|\\[&%$#_{}]|\{(?:--|[][*`' -])\}|\$[^$]+\$|[^\\{}$&%#_~^]")


def read(source):
    """The text that LaTeX sets, where nothing but letters, groups and these commands stands."""
    tokens = TOKEN.findall(source)
    assert "".join(tokens) == source
    return "".join(SET.get(token) or token[len(token) > 1] for token in tokens)


@given(st.text(st.sampled_from([*"\\&%$#_{}~^<>|[]*`'-!?\"=,.:/ a", *"±×−–"]), max_size=12))
@example(string.printable)
@example("50 %  of a_b~{c} & #1 \\input{x} --- [2ex] * ``x''")
def test_text_is_set_as_it_reads(text):
    source = latex.escape(text)
    assert read(source) == printable(text)
    # Nothing is left that LaTeX would join or skip, or obey after the end of a row.
    assert not re.search(r"[-`']{3}|(?<!\{)--|[`']{2}|  ", source) and source[:1] not in ("[", "*")


def test_a_table_has_the_rules_of_booktabs():
    table = latex.table(["S", "accuracy"], [["4", "50"], ["8", "51"]], ["of\n\\end{tabular}"])
    assert table.splitlines() == [
        r"% of\n\end{tabular}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"S & accuracy \\",
        r"\midrule",
        r"4 & 50 \\",
        r"8 & 51 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
