"""Stages `compare ...`: two independent methods answer the same question on the same items, and are held together.

A comparison has one shape whatever it compares:

1. Its stage function runs both methods on the same items (places in a map, movies, micrographs) and puts what each says
   into an `Answers`: values, the standard error that the method itself states, and, where there is one, how well data
   that neither method was fitted to support each answer.
2. `agreement.compare_answers` turns the two into a `Comparison`: distance per item, consensus with its error, and the
   items on which the methods disagree by more than a stated tolerance.
3. `show.show_comparison` writes `comparison.json`, the summary with its verdict, and the figures.

Another comparison adds its settings and declaration to `settings.py`, one module of its own that holds the stage
function (and nothing of the methods, which stay in the rooms of their stages), and a line in `project/registry.py`.
Its demonstration is judged by `tests/compare/judging.py`.
"""
