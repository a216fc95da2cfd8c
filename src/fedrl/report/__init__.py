"""One page that shows a run, or compares several, and opens without a network.

run folder --read--> Run --> curves, final returns --> figures (data) + tables (markup) --> page.html

The page carries its charts' data as JSON and draws them with plotly.js, inlined once (about 5 MB, nearly all of the
page). A content security policy forbids it to fetch anything. Everything that comes from a run folder is escaped.
"""

from fedrl.report.page import write_report

__all__ = [
    "write_report",
]
