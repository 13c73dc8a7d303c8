"""Downstream tasks, trained by the same loop."""

TASKS: dict[str, str] = {  # name -> "module:class"
    "classify": "untaught.downstream.classify:Classify",
    "multilabel": "untaught.downstream.multilabel:Multilabel",
    "segment": "untaught.downstream.segment:Segment",
    "tag": "untaught.downstream.tag:Tag",
    "regress": "untaught.downstream.regress:Regress",
}
