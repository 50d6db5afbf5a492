# SPDX-License-Identifier: MIT
"""The benchmark: `python -m bench` from the repository's root. How does vqcodec compare, on your pictures, here?

    pictures.py   which pictures              codecs.py, learned.py   how codecs are called     peers.py   the list
    metrics.py, perceptual.py   distortion    bd.py       distance between curves    tools.py   programs of the system
    store.py      the results folder          run.py      rate, distortion, speed    speed.py   processes, folders
    seams.py      large photographs           process.py  one process, from outside  stages.py, clock.py  its stages
    curves.py     from rows to curves         direct.py   every codec against every other    published.py   of others
    report.py, tables.py   tables, sentences  plots.py    figures                    page.py, slides.py   the HTML page
    session.py    a set from options to files release.py  what is committed          progress.py   time left
    swd.py, c2st.py, pretrained.py   how real sets of pictures look     orders.py   whether damage is ordered rightly
    realism.py    codecs at equal rates       realism_report.py, sheets.py           their tables, page, contact sheets
    learning.py   what training runs left    screens.py   screens, text, patterns    commands.py  options

Not part of the installed package: nothing in `vqcodec` may import it.
"""
