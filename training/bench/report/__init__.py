"""Tables, verdicts, figures and pages, made from the result files of a study: nothing here trains or measures.

    python -m training.bench.report RESULTS    tables and verdicts of a study
    pages      the tables inside the documentation and results/quality.md, from the committed results
    figures    cost, trade-offs and curves as pictures
    crops      restored photographs side by side
    gallery    the pictures and scores of docs/gallery
    explore    the pictures and figures of docs/explore
    visible    how far one can see the difference between two networks

A row is all seeds of one loss in one regime (``rows``); rows appear by themselves when their cells do. A new claim is a
line of ``verdicts``; a new row of the README's table is a line of ``pages.SUMMARY_ROWS``.
"""
