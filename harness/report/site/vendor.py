"""Libraries of other people that the site carries along, taken from installed packages, never from a network.

DataTables comes inside itables, Vega-Lite inside vl-convert. Both as plain scripts: browsers load no modules
from a page that was opened from disk.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from harness.core.errors import UserError

EXTRA = 'the web leaderboard needs packages that are not installed; type: pip install ".[site]"'
EXPORTS = re.compile(r"export\s*\{(?P<names>[^}]*)\}\s*;?")


def datatables_script() -> str:
    """DataTables as a script that sets `window.DataTable`; UserError where itables is absent or changed."""
    try:
        source = resources.files("itables").joinpath("html/dt_bundle.js").read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        raise UserError(EXTRA) from None
    exports = EXPORTS.search(source)
    name = re.search(r"([\w$]+) as default\b", exports["names"]) if exports else None
    if exports is None or name is None:
        raise UserError(
            "the installed itables carries no DataTables that this version knows; try itables 2.9"
        )
    start, end = exports.span()
    return f"(()=>{{{source[:start]}window.DataTable={name[1]};{source[end:]}\n}})();\n"


@cache
def vega_script() -> str:
    """Vega, Vega-Lite and Vega-Embed as a script that sets `window.vegaEmbed`; UserError where absent.

    Bundling them takes seconds, and always gives the same.
    """
    try:
        from vl_convert import javascript_bundle
    except ModuleNotFoundError:
        raise UserError(EXTRA) from None
    return str(javascript_bundle("window.vegaEmbed = vegaEmbed;"))
