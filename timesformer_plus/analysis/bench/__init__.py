"""The benchmark: speed, memory and growth of the models side by side with others, in one run on one machine.

rows.py             what a table is made of: a figure with its quartiles, target and note
timing.py           passes in alternating order, and ratios taken round by round
limit.py            the bare matrix products of a model
yardstick.py        our model as it was when it copied queries, keys and values into groups
contestants.py      our model, transformers' with the same weights, the yardstick; checked against each other
cases.py model.py memory.py memory_process.py scaling.py data.py kernels.py end_to_end.py    the tables
files.py            the JSON file of a run
compare.py          what has become slower from one file to another
show.py cli.py      what is printed; the command line
"""
