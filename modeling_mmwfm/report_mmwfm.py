"""What the HTML pages share."""

import base64
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ccc; text-align: right }
th:first-child, td:first-child { text-align: left } img { max-width: 100%; vertical-align: top }
.row { display: flex; flex-wrap: wrap; gap: 1rem } .row figure { flex: 1 1 20rem; margin: 0 } figcaption { color: #555 }
"""


def embed(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
