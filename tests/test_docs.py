"""Tables in the documentation are those that the records give."""

from docs import plan_imagenet, plot_accuracy
from docs.plot_accuracy import HERE, RUNS, Record


def test_the_table_of_accuracies_is_that_of_the_records():
    runs = {name: [Record.read(HERE / one) for one in where] for name, where in RUNS.items()}
    table = plot_accuracy.table(runs, plot_accuracy.read_anchors())
    assert table in (HERE / "accuracy.md").read_text()
    assert "| 51.7 ± 0.5 |" in table and "| 43.9 |" in table


def test_the_plan_for_imagenet_is_that_of_the_cost_model():
    text = (HERE / "imagenet.md").read_text()
    assert plan_imagenet.check_table() in text and plan_imagenet.plan_table() in text


def test_the_cost_model_is_near_what_was_measured():
    _, works, speeds = plan_imagenet.recorded()
    found = plan_imagenet.predicted(works, plan_imagenet.fit(works, speeds)) / speeds
    assert found.min() > 0.9 and found.max() < 1.1
