# SPDX-License-Identifier: MIT
"""The benchmark: `python -m bench` from the repository's root. How does vqcodec compare, on your pictures, here?

    pictures.py  which pictures            store.py   the results folder: read, appended to, resumed
    peers.py     the codecs                run.py     measures: rate, distortion, speed, whole processes
    metrics.py   PSNR, MS-SSIM, BD-rate    process.py one picture in a process of its own, measured from outside
    report.py    tables and README         plots.py   figures       page.py  the HTML page
    swd.py, c2st.py, pretrained.py   how real sets of pictures look       orders.py  whether damage is ordered rightly
    realism.py   codecs at equal rates     realism_report.py, sheets.py     their tables, page and contact sheets

Not part of the installed package: nothing in `vqcodec` may import it.
"""
