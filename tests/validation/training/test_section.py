"""A resumed section trains only what is missing."""

from projlab_validation.training import section
from projlab_validation.training.judge import judge
from tests.validation.training.runs import BRIEF, BY_NAME


def test_a_resumed_section_trains_only_what_is_missing(tmp_path, monkeypatch):
    few = tuple(BY_NAME[name] for name in ("SGD", "Adam"))
    monkeypatch.setattr(section, "OPTIMIZERS", few)

    def go():
        return [
            record
            for records in section.run(
                tmp_path,
                ["train_article_2", "network_noise"],
                BRIEF,
                ["float64"],
                environment="here",
                jobs=1,
            )
            for record in records
        ]

    assert len(go()) == 8
    assert go() == []
    next((tmp_path / "training").glob("*.Adam.*")).unlink()
    assert {(record.problem, record.optimizer) for record in go()} == {("train_article_2", "Adam")}
    frame = section.read(tmp_path, "here")
    assert len(frame) == 8
    assert set(judge(frame)["verdict"]) <= {"pass", "expected", "fail"}
    assert section.read(tmp_path, "elsewhere").empty
