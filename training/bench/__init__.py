"""What the losses cost, how good they are, and what their recipes owe to each setting.

Rooms, each of which may import those above it, never those below (tests/training/test_house.py holds the order):

    authors.py, trunks.py, markdown.py    losses to compare with, and tables: what several rooms use
    cost/        what a loss or an update costs: time, memory, launches
    study/       the quality benchmark: networks fine-tuned with each loss, and measured; leaves result files
    report/      tables, verdicts, figures and pages of the documentation, from result files alone
    ablation/    released recipes with one setting changed, and other questions about a recipe
    results/     committed figures, each with its machine and commit: no code

Every command runs as ``python -m training.bench.<room>.<file>`` and by its path; ``--help`` says what it needs.
"""
