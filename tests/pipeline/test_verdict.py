from cryoloom.pipeline.verdict import join_verdicts


def step(stage, verdict, *reasons):
    return stage, {"verdict": verdict, "reasons": list(reasons)}


def test_a_run_is_as_sure_as_its_least_sure_deciding_step():
    steps = [step("abinitio", "doubtful", "starts differ"), step("refine", "found", "4 Å")]
    assert join_verdicts(steps, has_map=True) == ("doubtful", ["abinitio: starts differ", "refine: 4 Å"])


def test_a_doubt_about_one_movie_is_told_but_does_not_decide():
    verdict, reasons = join_verdicts([step("motion", "doubtful", "one movie"), step("refine", "found")], has_map=True)
    assert verdict == "found" and reasons == ["motion: one movie"]


def test_without_a_map_nothing_was_found():
    verdict, reasons = join_verdicts([step("pick", "found")], has_map=False)
    assert verdict == "not found" and reasons
