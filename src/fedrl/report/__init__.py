"""The report: one HTML page about a run, or a comparison of several, that needs no network.

run folder --read--> Run --> curves, final returns --> figures (data) + tables (markup) --> page.html

The page contains the data of its charts as JSON and draws them with plotly.js, inlined once (about 5 MB, nearly the
whole page). A content security policy forbids it to fetch anything. All text from a run folder is escaped.
"""

from fedrl.report.page import write_report

__all__ = [
    "write_report",
]
