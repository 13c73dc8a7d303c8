"""Modalities: record -> arrays (once), batch -> views (every step, batched, on the device), view -> image."""

MODALITIES: dict[str, str] = {
    "image": "untaught.modalities.image:IMAGE",
    "text": "untaught.modalities.text:TEXT",
    "series": "untaught.modalities.series:SERIES",
    "events": "untaught.modalities.events:EVENTS",
    "audio": "untaught.modalities.audio:AUDIO",
    "table": "untaught.modalities.table:TABLE",
    "image_text": "untaught.modalities.image_text:IMAGE_TEXT",
}
