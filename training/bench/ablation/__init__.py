"""Questions about a released recipe: what does it owe to each setting?

    python -m training.bench.ablation    trains the recipe with one setting changed, and puts it to the study's test
    recognition     do the critics know their distortion on photographs that they never saw?
    loss_weights    which weight beside L1?

A new question is an entry of ``questions.QUESTIONS``: settings of the training, or attributes of ``altered.Altered``
for what no setting says. Then ``python -m training.bench.report.pages`` puts its rows into docs/ablations.md.
"""
