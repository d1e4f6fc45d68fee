import re
import string

from eanet.display import latex


def test_every_letter_of_latex_stands_as_text():
    escaped = latex.escape(string.printable + "±−–×")
    # What is left when the ways to write them are taken away obeys nothing.
    left = re.sub(r"\\(text[a-z]+\{\}|[&%$#_{}])|\{[][]\}|\$(\\pm|\\times|-)\$", "", escaped)
    assert not set(left) & set("\\&%$#_{}~^<>|[]") and left.isascii()
    assert latex.escape("50 % of a_b & c") == r"50 \% of a\_b \& c"


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
