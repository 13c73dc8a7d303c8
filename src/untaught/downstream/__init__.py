"""Downstream tasks, trained by the same loop."""

TASKS: dict[str, str] = {  # name -> "module:class"
    "classify": "untaught.downstream.classify:Classify",
    "multilabel": "untaught.downstream.multilabel:Multilabel",
    "segment": "untaught.downstream.segment:Segment",
    "tag": "untaught.downstream.tag:Tag",
    "transcribe": "untaught.downstream.transcribe:Transcribe",
    "regress": "untaught.downstream.regress:Regress",
    "forecast": "untaught.downstream.forecast:Forecast",
}
