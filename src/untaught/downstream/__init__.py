"""What an encoder is for: tasks with labels, which the same loop trains."""

TASKS: dict[str, str] = {  # name -> "module:class"
    "classify": "untaught.downstream.classify:Classify",
    "segment": "untaught.downstream.segment:Segment",
    "tag": "untaught.downstream.tag:Tag",
    "regress": "untaught.downstream.regress:Regress",
}
