"""Reddit dumps and EmpatheticDialogues become tables (paper §3.1)."""

from sage_dialog.pipelines.data_processing.pipeline import create_pipeline

__all__ = ["create_pipeline"]
