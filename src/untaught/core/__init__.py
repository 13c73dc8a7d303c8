"""The types that methods, encoders and modalities exchange. Imports no other part of the package."""

from untaught.core.encoder import Encoder, Features, Rows, Want
from untaught.core.errors import UserError, reason
from untaught.core.method import ExtractFeatures, Facts, FrozenEncoder, Method, Role, Terms
from untaught.core.modality import Files, Modality, Options, Preprocessor, Pretext, Record
from untaught.core.view import Batch, View

__all__ = [
    "Batch",
    "Encoder",
    "ExtractFeatures",
    "Facts",
    "Features",
    "Files",
    "FrozenEncoder",
    "Method",
    "Modality",
    "Options",
    "Preprocessor",
    "Pretext",
    "Record",
    "Role",
    "Rows",
    "Terms",
    "UserError",
    "View",
    "Want",
    "reason",
]
