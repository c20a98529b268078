"""`berth bench MODEL`: which engine serves a model best on this box. A client of control, which starts the engines.

main, session                  the command; the order of starts and windows
lease, client                  control's lease on the model; one connection to an engine
measure, quality, likeness     what one start is asked, and what its answers are worth
plan_points, workload, schedule    load points, prompts and arrivals, all from seeds
generator, window              who sends when; what a window of requests says, and whether it is valid
rules                          what the engines of a run have in common, and what they have to
percentiles, ratios            statistics: pure
report, page, drawing          text, HTML, SVG

Methods that decide about fairness have numbers, F1 to F12; they are in docs/compare.md.
"""
