"""The report: runs in, one HTML file out that needs no network. Making it imports no JAX."""

from flossing_lab.report.page import write_report as write_report
