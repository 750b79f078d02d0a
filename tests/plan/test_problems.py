from sails_eval.plan.problems import Problem, Problems


def test_what_several_looks_meet_is_told_once() -> None:
    met = Problems([Problem("no GPU", stops=False), Problem("no model"), Problem("no model"), Problem("no judge")])
    assert met.different == (Problem("no GPU", stops=False), Problem("no model"), Problem("no judge"))
    assert met.stopping == ["no model", "no judge"]
