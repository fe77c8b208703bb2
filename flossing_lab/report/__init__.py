"""The report: runs in, one self-contained HTML file out. Writing it imports no JAX."""

from flossing_lab.report.page import write_report as write_report
