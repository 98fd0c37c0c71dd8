"""The HTML report, section by section."""

from sage_dialog.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
