"""Pages that open offline: any report, and the report of a run."""

from pyro_vae.report.page import Section, write_report

__all__ = ["Section", "write_report"]
