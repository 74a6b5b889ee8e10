"""report.html: one self-contained page about a run, for someone who was not there."""

from fastdml.training.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
