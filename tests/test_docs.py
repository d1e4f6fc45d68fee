"""Tables in the documentation are those that the records give."""

from docs import plot_accuracy
from docs.plot_accuracy import HERE, RUNS, Record


def test_the_table_of_accuracies_is_that_of_the_records():
    runs = {name: [Record.read(HERE / one) for one in where] for name, where in RUNS.items()}
    table = plot_accuracy.table(runs, plot_accuracy.read_anchors())
    assert table in (HERE / "accuracy.md").read_text()
    assert "| 51.7 ± 0.5 |" in table and "| 43.9 |" in table
